"""What can go wrong with a batch."""

import re

from ...errors import FaceCDMError


def plain(text: str) -> str:
    """One line without control characters: what a server says may hold some."""
    return re.sub(r"[\x00-\x1f\x7f-\x9f]+", " ", text)[:2000]


class PlanMistake(FaceCDMError):
    """A plan makes no sense; `mistakes` has a line for each, and nothing was queued."""

    def __init__(self, mistakes: list[str]):
        self.mistakes = [plain(line) for line in mistakes]
        count = "a mistake" if len(mistakes) == 1 else f"{len(mistakes)} mistakes"
        lines = "\n".join(f"  {line}" for line in self.mistakes)
        super().__init__(f"the plan has {count}; nothing was queued:\n{lines}")


class JournalMistake(FaceCDMError):
    """The output folder holds the journal of another plan, or another batch works there."""


class NoServerLeft(FaceCDMError):
    """No server answers any more; what was not done waits for --resume."""


class DiskFull(FaceCDMError):
    """A result or the journal could not be written; what was not done waits for --resume."""
