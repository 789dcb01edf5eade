"""The result of a check."""

from dataclasses import dataclass

# OK; NOTE: optional; WARNING: may cause errors; MISSING: no portrait can be made without it.
OK, NOTE, WARNING, MISSING = "ok", "note", "warning", "missing"


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    level    OK, NOTE, WARNING or MISSING
    topic    "python", "comfyui", "checkpoint" …
    text     what was found
    advice   what to do, or ""
    """

    level: str
    topic: str
    text: str
    advice: str = ""
