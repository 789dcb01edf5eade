"""ComfyUI on the nodes of a Ray cluster. Each worker starts one server and forwards a Client's calls to it.

The journal, schedule and results stay on the machine that started the batch. Workers keep nothing.
"""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from ....comfy_api.client import Client, OnProgress, Progress
from ....comfy_api.errors import PortTaken, ServerDied, ServerUnreachable
from ....errors import FaceCDMError, MissingPackage
from ....files import PACKAGE
from ..plan.plan import Plan, RayPlan

METHODS = ("object_info", "upload", "submit", "finished", "is_queued", "fetch", "cancel")


class Worker:
    """The Ray actor: a ComfyUI with its own folders for input and output, and a Client to it.

    ComfyUI's API listens on the node's loopback interface only, so the network carries only Ray's traffic.
    """

    def __init__(self, keys: dict[str, Any], client_id: str, patience: float):
        from ....comfy_api.server import LocalServer

        plan = RayPlan(**keys)
        self.folder = Path(tempfile.mkdtemp(prefix="facecdm-ray-"))
        own = [f"--{kind}-directory={self.folder / kind}" for kind in ("input", "output", "temp", "user")]
        for kind in ("input", "output", "user"):
            (self.folder / kind).mkdir()
        options = {"python": plan.python} if plan.python else {}
        self.server = LocalServer(
            Path(plan.comfyui),
            Path(plan.base or plan.comfyui),
            cpu=not plan.gpus,
            guarded=True,
            arguments=(*own, *plan.arguments),
            log=self.folder / "server.log",
            **options,
        )
        self.patience, self.client_id = patience, client_id
        self.client: Client | None = None
        self.progress: dict[str, Progress] = {}
        self._starting = asyncio.Lock()

    async def ready(self) -> Client:
        """The Client. Starts ComfyUI if it is not running."""
        async with self._starting:
            if self.client is None or not self.server.alive:
                await self._stop_client()
                await asyncio.to_thread(self.server.start)
                self.client = Client(self.server.address, patience=self.patience, client_id=self.client_id)
                await self.client.__aenter__()
            return self.client

    async def call(self, method: str, *arguments: Any, **named: Any) -> Any:
        return await getattr(await self.ready(), method)(*arguments, **named)

    async def wait(self, prompt_id: str, timeout: float | None):
        client = await self.ready()
        try:
            return await client.wait(prompt_id, lambda step: self.progress.update({prompt_id: step}), timeout)
        finally:
            self.progress.pop(prompt_id, None)

    async def step(self, prompt_id: str) -> Progress | None:
        return self.progress.get(prompt_id)

    async def pid(self) -> int:
        """Process id of the ComfyUI."""
        await self.ready()
        return self.server.process.pid

    async def stop(self) -> None:
        await self._stop_client()
        await asyncio.to_thread(self.server.stop)
        shutil.rmtree(self.folder, ignore_errors=True)

    async def _stop_client(self) -> None:
        if self.client is not None:
            with contextlib.suppress(Exception):
                await self.client.__aexit__()
            self.client = None


class RayConnection:
    """A worker as a batch's Connection. A dead worker counts as an unreachable server until Ray restarts it."""

    def __init__(self, actor: Any):
        self.actor = actor

    async def __aenter__(self) -> "RayConnection":
        return self

    async def __aexit__(self, *_: object) -> None:
        with contextlib.suppress(Exception):
            await asyncio.wait_for(self._ask(self.actor.stop.remote()), 30)
        import ray

        with contextlib.suppress(Exception):
            ray.kill(self.actor)

    def __getattr__(self, name: str) -> Any:
        if name not in METHODS:
            raise AttributeError(name)

        async def call(*arguments: Any, **named: Any) -> Any:
            return await self._ask(self.actor.call.remote(name, *arguments, **named))

        return call

    async def wait(self, prompt_id: str, on_progress: OnProgress | None, timeout: float | None):
        waiting = asyncio.ensure_future(self._ask(self.actor.wait.remote(prompt_id, timeout)))
        try:
            while True:
                ended, _ = await asyncio.wait({waiting}, timeout=1)
                if ended:
                    return waiting.result()
                if on_progress and (step := await self._ask(self.actor.step.remote(prompt_id))):
                    on_progress(step)
        finally:
            waiting.cancel()

    async def _ask(self, reference: Any) -> Any:
        from ray.exceptions import RayError, RayTaskError

        try:
            return await reference
        except RayTaskError as error:
            if isinstance(error.cause, ServerDied | PortTaken):  # affects this worker's ComfyUI only
                raise ServerUnreachable(f"the Ray worker's ComfyUI did not start: {error.cause}") from None
            if isinstance(error.cause, FaceCDMError | TimeoutError):
                raise error.cause from None
            raise
        except RayError as error:  # the actor, its node or the cluster failed
            raise ServerUnreachable(f"the Ray worker is gone ({type(error).__name__}); Ray starts another") from error


@contextlib.asynccontextmanager
async def workers(plan: Plan, client_id: str) -> AsyncIterator[dict[str, RayConnection]]:
    """The plan's workers: name → connection. Raises MissingPackage, FaceCDMError."""
    try:
        import ray
    except ImportError as error:
        raise MissingPackage("Ray is not installed: pip install 'facecdm[ray]', or name servers instead") from error
    mine = not ray.is_initialized()
    if mine:
        await asyncio.to_thread(_begin, plan.ray.address)
    try:
        actor = ray.remote(Worker).options(
            num_gpus=plan.ray.gpus, num_cpus=plan.ray.cpus, max_restarts=-1, max_concurrency=32
        )
        keys = plan.ray.model_dump()
        yield {
            f"ray-{number}": RayConnection(actor.remote(keys, client_id, plan.patience))
            for number in range(1, plan.ray.workers + 1)
        }
    finally:
        if mine:
            await asyncio.to_thread(ray.shutdown)


def _begin(address: str | None, tries: int = 3) -> None:
    """Connect to a cluster, or start one on this machine. Raises FaceCDMError."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # send no usage statistics
    # Send the library without its weights; only ComfyUI's nodes need those.
    environment = {"py_modules": [str(PACKAGE)], "excludes": ["**/*.safetensors", "**/__pycache__"]}
    for left in range(tries - 1, -1, -1):
        try:
            ray.init(
                address=address or "local",
                runtime_env=environment,
                log_to_driver=False,
                configure_logging=False,
                include_dashboard=None if address else False,
            )
            return
        except Exception as error:  # Ray raises many types; a slow start on a busy machine raises a plain Exception
            ray.shutdown()
            if not left or address:
                raise FaceCDMError(f"no Ray at {address or 'this machine'}: {error}") from error
