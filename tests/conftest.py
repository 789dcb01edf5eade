"""Fixtures that put the real thing under test: a ComfyUI, face models, a server, nodes in process.

`python quickstart.py test` fetches what they need. FACECDM_COMFYUI and FACECDM_BASE point them elsewhere.
"""

import asyncio
import importlib
import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import settings

if "PYTEST_XDIST_WORKER" in os.environ:  # tests in parallel: one thread each, in their servers, too
    os.environ.setdefault("OMP_NUM_THREADS", "1")
# The same cases in every run, and as much time as a busy machine takes.
settings.register_profile("suite", deadline=None, derandomize=True)
settings.load_profile("suite")

REPOSITORY = Path(__file__).resolve().parent.parent
QUICKSTART = REPOSITORY / ".quickstart"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the browser tests last: their pages stay open until the end and keep the processor busy."""
    items.sort(key=lambda item: item.path.is_relative_to(REPOSITORY / "tests" / "browser"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Clear ComfyUI's lists of the files in model folders, which fail once a passed test's folder is removed."""
    if folder_paths := sys.modules.get("folder_paths"):
        folder_paths.filename_list_cache.clear()


def fetched(variable: str, default: Path, proof: str) -> Path:
    """The folder that `variable` names, else `default`; skips where nobody fetched it."""
    folder = Path(os.environ.get(variable) or default).resolve()
    if not (folder / proof).exists():
        message = f"{folder} has no {proof}: run `python quickstart.py test`, or set {variable}"
        pytest.fail(message) if os.environ.get(variable) else pytest.skip(message)
    return folder


@pytest.fixture(scope="session")
def comfyui() -> Path:
    """The ComfyUI folder (main.py in it)."""
    return fetched("FACECDM_COMFYUI", QUICKSTART / "ComfyUI", "main.py")


@pytest.fixture(scope="session")
def face_models() -> Path:
    """A base folder with models/insightface/models/buffalo_s/*.onnx in it. Read only."""
    return fetched("FACECDM_BASE", QUICKSTART / "base", "models/insightface/models/buffalo_s/det_500m.onnx")


@pytest.fixture(scope="session")
def astronaut():
    """scikit-image's photograph of Eileen Collins as IMAGE [1, 512, 512, 3], float32, 0..1, RGB."""
    import torch
    from skimage import data

    return torch.from_numpy(data.astronaut()).float().div(255).unsqueeze(0)


@pytest.fixture(scope="session")
def faceworld_val() -> Path:
    """The FaceWorld pictures that travel with the tests (tests/assets)."""
    assets = REPOSITORY / "tests" / "assets"
    if not assets.is_dir():
        pytest.skip(f"{assets} is missing")
    return assets


def make_base(folder: Path, face_models: Path) -> Path:
    """A fresh ComfyUI base directory at `folder` that shares the face models of another."""
    for name in ("input", "output", "temp", "user", "custom_nodes", "models"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    source, target = face_models / "models" / "insightface", folder / "models" / "insightface"
    try:
        target.symlink_to(source, target_is_directory=True)
    except OSError:  # Windows without the right to make links
        shutil.copytree(source, target)
    return folder


@dataclass(frozen=True)
class InComfy:
    """ComfyUI in this process, on the CPU, with this pack imported as ComfyUI imports it.

    The pack lives under a path-like name, so its classes are not those of the top-level `facecdm`:
    `module("facecdm.errors")` gives the pack's own copy.
    """

    base: Path
    pack: ModuleType
    nodes: dict[str, type]

    def module(self, name: str) -> ModuleType:
        return importlib.import_module(f"{self.pack.__name__}.{name}")

    def node_output(self, node_id: str, **inputs: Any):
        """The NodeOutput of one node, run as the executor runs it: in inference mode, on a locked clone."""
        import torch

        node = self.nodes[node_id]
        node.VALIDATE_CLASS()
        with torch.inference_mode():
            output = node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED(**inputs)
        return output

    def run(self, node_id: str, **inputs: Any) -> tuple:
        """What the node's output sockets carry."""
        return tuple(self.node_output(node_id, **inputs).result or ())


@pytest.fixture(scope="session")
def in_comfy(comfyui: Path, face_models: Path, tmp_path_factory: pytest.TempPathFactory) -> InComfy:
    """Import `comfy`, `nodes`, `folder_paths` … inside tests that take this fixture."""
    # Before the repository's root, whose nodes/ would else hide ComfyUI's nodes.py.
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    base = make_base(tmp_path_factory.mktemp("base"), face_models)
    comfy.cli_args.args.cpu = True
    comfy.cli_args.args.base_directory = str(base)
    import folder_paths

    assert Path(folder_paths.base_path) == base, "folder_paths was imported before the fixture"
    import nodes

    assert Path(nodes.__file__) == comfyui / "nodes.py", f"`import nodes` found {nodes.__file__}"
    name = str(REPOSITORY).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / "__init__.py")
    pack = importlib.util.module_from_spec(spec)
    sys.modules[name] = pack
    spec.loader.exec_module(pack)

    async def node_list():
        return await (await pack.comfy_entrypoint()).get_node_list()

    found = {node.GET_SCHEMA().node_id: node for node in asyncio.run(node_list())}
    return InComfy(base=base, pack=pack, nodes=found)


@dataclass(frozen=True)
class RunningServer:
    """A real ComfyUI with this pack; `run` where a result is all one wants, else comfy_api.client.Client."""

    address: str
    base: Path
    log: Path

    def run(self, nodes: dict, on_progress=None):
        """Queues an API-format workflow and waits; gives history.Finished, raises as Client does."""
        from facecdm.comfy_api.client import Client
        from facecdm.comfy_api.workflow import Workflow

        async def job():
            async with Client(self.address) as client:
                return await client.run(Workflow.parse(nodes), on_progress)

        return asyncio.run(job())

    def upload(self, picture: Path) -> str:
        """Puts a picture into the input folder; gives the name for LoadImage."""
        from facecdm.comfy_api.client import Client

        async def job():
            async with Client(self.address) as client:
                return await client.upload(picture)

        return asyncio.run(job())

    def fetch(self, output) -> bytes:
        from facecdm.comfy_api.client import Client

        async def job():
            async with Client(self.address) as client:
                return await client.fetch(output)

        return asyncio.run(job())


@pytest.fixture(scope="session")
def server(comfyui: Path, face_models: Path, tmp_path_factory: pytest.TempPathFactory):
    """A running ComfyUI on the CPU, started once, ended with the tests; with a pack that samples in tiles."""
    from facecdm.comfy_api.server import LocalServer, link_pack

    base = make_base(tmp_path_factory.mktemp("server"), face_models)
    link_pack(REPOSITORY, base)
    link_pack(REPOSITORY / "tests" / "support" / "tiling_pack", base, "tiling_pack")
    with LocalServer(comfyui, base, cpu=True) as running:
        yield RunningServer(running.address, base, running.log)
