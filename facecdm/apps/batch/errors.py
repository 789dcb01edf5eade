"""Exceptions of a batch."""

import math

from ...comfy_api.names import one_line
from ...errors import FaceCDMError

LISTED = 40  # mistakes that are listed; the others are counted
IN_MESSAGE = 900  # characters of the mistakes in the message


class PlanMistake(FaceCDMError):
    """A plan is invalid; nothing was queued. The message names as many mistakes as fit, and counts the others.

    mistakes  one line per mistake, at most LISTED, and one that counts the others
    """

    def __init__(self, mistakes: list[str]):
        lines = [one_line(line, 300) for line in mistakes]
        self.mistakes = shortened(lines, LISTED)
        count = "a mistake" if len(lines) == 1 else f"{len(lines)} mistakes"
        shown = shortened([f"  {line}" for line in lines], LISTED, IN_MESSAGE)
        super().__init__("\n".join([f"the plan has {count}; nothing was queued:", *shown]))


def shortened(lines: list[str], most: int, characters: float = math.inf) -> list[str]:
    """The first lines, at most `most` and with at most `characters`, and a line that counts the others."""
    kept = 0
    while kept < min(len(lines), most) and sum(len(line) + 1 for line in lines[: kept + 1]) <= characters:
        kept += 1
    others = len(lines) - kept
    return lines[:kept] + ([f"… and {others} more"] if others else [])


class JournalMistake(FaceCDMError):
    """The output folder holds the journal of another plan, or another batch uses it."""


class NoServerLeft(FaceCDMError):
    """No server answers any more. --resume continues with the unfinished jobs."""


class DiskFull(FaceCDMError):
    """A result or the journal could not be written. --resume continues with the unfinished jobs."""
