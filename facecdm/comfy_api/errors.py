"""Exceptions of the client and the local server."""

from ..errors import FaceCDMError
from .names import shorten


class WorkflowMistake(FaceCDMError):
    """A workflow file, or an edit to it, is invalid; nothing was queued."""


class ServerUnreachable(FaceCDMError):
    """The server does not answer."""


class BadAnswer(FaceCDMError):
    """The server's answer does not follow its API."""


class WorkflowRejected(FaceCDMError):
    """The server refused the workflow or a part of it.

    mistakes  one line per mistake
    """

    def __init__(self, mistakes: list[str]):
        self.mistakes = [shorten(line, 300) for line in mistakes]
        text = "the server refused the workflow:\n" + "\n".join(f"  {line}" for line in self.mistakes)
        super().__init__(shorten(text, 950))

    def __reduce__(self) -> tuple:
        return WorkflowRejected, (self.mistakes,)


class JobFailed(FaceCDMError):
    """A node raised an exception.

    node_id, node_type  id and class of that node
    message             the exception's message, at most 800 characters
    traceback           the server's traceback, at most 20,000 characters
    """

    def __init__(self, node_id: str, node_type: str, message: str, traceback: str = ""):
        self.node_id, self.node_type = shorten(node_id, 60), shorten(node_type, 60)
        self.message, self.traceback = shorten(message, 800), shorten(traceback, 20_000)
        super().__init__(f"node {self.node_id} ({self.node_type}) failed: {self.message}")

    def __reduce__(self) -> tuple:
        return JobFailed, (self.node_id, self.node_type, self.message, self.traceback)


class JobInterrupted(FaceCDMError):
    """The job was interrupted or removed from the queue."""


class JobLost(FaceCDMError):
    """The server no longer knows the job: it was restarted, or its history was cleared."""


class ServerDied(FaceCDMError):
    """The server process exited. The message ends with the last lines of its log."""


class PortTaken(FaceCDMError):
    """Another program listens on the requested port."""
