"""What can go wrong between a client and a ComfyUI server."""

from ..errors import FaceCDMError


class WorkflowMistake(FaceCDMError):
    """A workflow file, or a change to it, makes no sense; nothing was queued."""


class ServerUnreachable(FaceCDMError):
    """No answer from the server."""


class BadAnswer(FaceCDMError):
    """The server's answer is not what its API promises."""


class WorkflowRejected(FaceCDMError):
    """The server refused the workflow, or a part of it; `mistakes` has a line for each."""

    def __init__(self, mistakes: list[str]):
        self.mistakes = mistakes
        super().__init__("the server refused the workflow:\n" + "\n".join(f"  {line}" for line in mistakes))

    def __reduce__(self) -> tuple:
        return WorkflowRejected, (self.mistakes,)


class JobFailed(FaceCDMError):
    """A node raised while the job ran."""

    def __init__(self, node_id: str, node_type: str, message: str, traceback: str = ""):
        self.node_id, self.node_type, self.message, self.traceback = node_id, node_type, message, traceback
        super().__init__(f"node {node_id} ({node_type}) failed: {message}")

    def __reduce__(self) -> tuple:
        return JobFailed, (self.node_id, self.node_type, self.message, self.traceback)


class JobInterrupted(FaceCDMError):
    """Somebody interrupted the job, or took it from the queue."""


class JobLost(FaceCDMError):
    """The server no longer knows the job: it was restarted, or its history was cleared."""


class ServerDied(FaceCDMError):
    """The server process ended by itself; the message ends with the last lines of its log."""


class PortTaken(FaceCDMError):
    """Another program listens on the port that was asked for."""
