"""What the doctor finds."""

from dataclasses import dataclass

# OK; NOTE: could be more; WARNING: may go wrong; MISSING: portraits cannot be made without it.
OK, NOTE, WARNING, MISSING = "ok", "note", "warning", "missing"


@dataclass(frozen=True)
class Finding:
    level: str
    topic: str
    text: str
    advice: str = ""
