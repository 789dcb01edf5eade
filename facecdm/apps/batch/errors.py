"""Exceptions of a batch."""

from ...comfy_api.names import one_line
from ...errors import FaceCDMError


class PlanMistake(FaceCDMError):
    """A plan is invalid; nothing was queued.

    mistakes  one line per mistake
    """

    def __init__(self, mistakes: list[str]):
        self.mistakes = [one_line(line, 300) for line in mistakes]
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = "\n".join(f"  {line}" for line in self.mistakes)
        super().__init__(f"the plan has {count}; nothing was queued:\n{lines}")


class JournalMistake(FaceCDMError):
    """The output folder holds the journal of another plan, or another batch uses it."""


class NoServerLeft(FaceCDMError):
    """No server answers any more. --resume continues with the unfinished jobs."""


class DiskFull(FaceCDMError):
    """A result or the journal could not be written. --resume continues with the unfinished jobs."""
