"""A server's web socket: progress, warnings and the end of jobs. Malformed messages do not stop it."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..documents import parse_json
from ..node_warnings import WARNINGS
from .history import MOST_WARNINGS
from .names import shorten
from .transport import MEBI, Transport

LARGEST_COUNT = 10**9  # steps of a node
MOST_JOBS = 1000  # whose warnings are kept


@dataclass(frozen=True)
class Progress:
    """A step of a running job.

    prompt_id  the job's id
    node       id of the node that runs
    value      steps done
    maximum    total steps; 0 when the node has just started
    """

    prompt_id: str
    node: str
    value: int
    maximum: int


OnProgress = Callable[[Progress], None]


class Listener:
    """Keeps a web socket open until it is stopped.

    connected  event that is set while the socket is open
    watchers   prompt id → (callback, event that is set when the job may have ended)
    warnings   prompt id → the warnings that were sent during the job, for jobs of this client id
    """

    def __init__(self, transport: Transport, client_id: str):
        self.transport, self.client_id = transport, client_id
        self.connected = asyncio.Event()
        self.watchers: dict[str, tuple[OnProgress | None, asyncio.Event]] = {}
        self.warnings: dict[str, list[str]] = {}
        self.socket: Any = None
        self._running: str | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._listen())

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _listen(self) -> None:
        import aiohttp

        url = f"{self.transport.url.replace('http', 'ws', 1)}/ws"
        options = {"params": {"clientId": self.client_id}, "max_msg_size": 64 * MEBI, "heartbeat": 30}
        while True:
            with contextlib.suppress(aiohttp.ClientError, asyncio.TimeoutError, OSError):
                async with self.transport.session.ws_connect(url, **options) as self.socket:
                    self.connected.set()
                    async for message in self.socket:
                        if message.type == aiohttp.WSMsgType.TEXT:
                            with contextlib.suppress(Exception):  # unreadable messages are ignored
                                self._handle(parse_json(message.data))
            self.connected.clear()
            for _, wake in self.watchers.values():
                wake.set()
            await asyncio.sleep(0.5)

    def _handle(self, message: dict[str, Any]) -> None:
        kind, data = message["type"], message["data"]
        if kind == WARNINGS:  # without a job's id: it is of the job that runs
            return self._keep(data["warnings"])
        if isinstance(data.get("prompt_id"), str):
            self._running = data["prompt_id"]
        on_progress, wake = self.watchers.get(data.get("prompt_id"), (None, None))
        if wake is None:
            return
        if kind == "executing" and data["node"] is None or kind in ("execution_error", "execution_interrupted"):
            wake.set()
        elif on_progress and kind == "executing":
            on_progress(Progress(data["prompt_id"], str(data["node"]), 0, 0))
        elif on_progress and kind == "progress":
            value, maximum = int(data["value"]), int(data["max"])
            if 0 <= value <= LARGEST_COUNT and 0 <= maximum <= LARGEST_COUNT:
                on_progress(Progress(data["prompt_id"], str(data["node"]), value, maximum))

    def _keep(self, texts: list[Any]) -> None:
        """Keep warnings of the running job, also while nobody waits for it yet."""
        if self._running is None:
            return
        held = self.warnings.setdefault(self._running, [])
        held += [shorten(text, 1000) for text in texts if isinstance(text, str)][: MOST_WARNINGS - len(held)]
        if len(self.warnings) > MOST_JOBS:
            del self.warnings[next(iter(self.warnings))]
