"""Parse a job's history entry and a server's rejection of a workflow. Both are untrusted input."""

import math
from dataclasses import dataclass
from typing import Any

from ..node_warnings import WARNINGS
from .errors import BadAnswer, JobFailed, JobInterrupted
from .names import shorten

MOST_WARNINGS = 50


@dataclass(frozen=True)
class Output:
    """A file that a job made. Use its names for /view only, never as local paths.

    node_id    id of the node that made it
    kind       "images", "gifs", "audio" …
    filename   name on the server
    subfolder  folder on the server, or ""
    type       "output" or "temp"
    """

    node_id: str
    kind: str
    filename: str
    subfolder: str
    type: str


@dataclass(frozen=True)
class Finished:
    """A job that succeeded.

    prompt_id  the job's id
    outputs    its files
    ui         node id → the node's UI output
    seconds    run time; None if the server does not report it
    sent       warnings that were sent over the web socket while it ran
    """

    prompt_id: str
    outputs: tuple[Output, ...]
    ui: dict[str, dict[str, Any]]
    seconds: float | None = None
    sent: tuple[str, ...] = ()

    def images(self, node_id: str | None = None) -> tuple[Output, ...]:
        """Saved images of one node or all nodes, without previews (type "temp")."""
        return tuple(
            output
            for output in self.outputs
            if output.kind == "images" and output.type == "output" and node_id in (None, output.node_id)
        )

    def warnings(self) -> tuple[str, ...]:
        """The warnings that FaceCDM's nodes show, each once: at most 50, of at most 1,000 characters."""
        shown = [values.get(WARNINGS) for values in self.ui.values() if isinstance(values, dict)]
        texts = [text for values in shown if isinstance(values, list) for text in values if isinstance(text, str)]
        return tuple(dict.fromkeys(shorten(text, 1000) for text in [*texts, *self.sent]))[:MOST_WARNINGS]


def read_entry(prompt_id: str, entry: Any) -> Finished:
    """Read a history entry. Raises JobFailed, JobInterrupted, BadAnswer."""
    try:
        status = entry["status"]
        messages = {name: data for name, data in status["messages"]}
        ui = entry["outputs"]
        if status["status_str"] != "success":
            raise _failure(messages)
        outputs = tuple(
            Output(str(node_id), str(kind), item["filename"], item.get("subfolder") or "", item["type"])
            for node_id, shown in ui.items()
            for kind, items in shown.items()
            if isinstance(items, list)
            for item in items
            if isinstance(item, dict) and {"filename", "type"} <= item.keys()
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadAnswer(f"the server's history of job {prompt_id} cannot be read ({error!r:.200})") from error
    if not all(isinstance(text, str) for o in outputs for text in (o.filename, o.subfolder, o.type)):
        raise BadAnswer(f"the server's history of job {prompt_id} names files that are not text")
    return Finished(prompt_id, outputs, ui, _seconds(messages))


def _seconds(messages: dict[str, Any]) -> float | None:
    try:
        seconds = (messages["execution_success"]["timestamp"] - messages["execution_start"]["timestamp"]) / 1000
        return seconds if math.isfinite(seconds) else None
    except (KeyError, TypeError, ArithmeticError):
        return None


def _failure(messages: dict[str, Any]) -> Exception:
    if "execution_error" in messages:
        error = messages["execution_error"]
        return JobFailed(
            str(error.get("node_id")),
            str(error.get("node_type")),
            str(error.get("exception_message", "")).strip(),
            "".join(map(str, error.get("traceback") or ())),
        )
    return JobInterrupted("the job was interrupted before it ended")


def rejection(answer: Any) -> list[str]:
    """The mistakes in an answer of /prompt, one per line: node, class, reason, details."""
    try:
        return _rejection(answer)
    except (AttributeError, TypeError) as error:
        raise BadAnswer(f"the server refused the workflow, but its reasons cannot be read ({error!r:.200})") from error


def _rejection(answer: Any) -> list[str]:
    lines = []
    error = answer.get("error") if isinstance(answer, dict) else None
    node_errors = (answer.get("node_errors") if isinstance(answer, dict) else None) or {}
    for node_id, mistake in node_errors.items():
        for reason in mistake.get("errors") or ():
            node = f"node {node_id} ({mistake.get('class_type', '?')})"
            lines.append(f"{node}: {reason.get('message', '')}: {reason.get('details', '')}".rstrip(": "))
    if isinstance(error, dict) and not lines:
        lines.append(f"{error.get('message', '')}: {error.get('details', '')}".rstrip(": "))
    elif error and not lines:
        lines.append(str(error))
    return lines
