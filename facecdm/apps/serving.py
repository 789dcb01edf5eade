"""The ComfyUI server and the similarity meter of `portrait` and `gallery`."""

import argparse
import asyncio
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..comfy_api.client import Client
from ..comfyui_folders import check_comfyui
from ..errors import FaceCDMError, MissingModel
from ..files import REPOSITORY, writing
from .references import Reference, copy_examples
from .similarity import SimilarityMeter

if TYPE_CHECKING:
    from ..comfy_api.server import LocalServer


def existing_file(text: str) -> Path:
    """Path of an existing file, as an argparse type."""
    path = Path(text)
    if not path.is_file():
        raise argparse.ArgumentTypeError(f"there is no file {text}")
    return path


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--comfyui", type=Path, metavar="DIR", help="start this ComfyUI")
    add("--base", type=Path, metavar="DIR", help="its base directory (models, input, output)")
    add("--server", metavar="ADDRESS", help="or use the server that runs there")
    add("--pack", metavar="NAME", help="face pack that measures identity similarity (default: buffalo_l if it is "
        "there, else another that is)")  # fmt: skip


def require_pack(instead: str) -> None:
    """Raise FaceCDMError if the nodes and workflows are not installed.

    instead  advice for the error message
    """
    if not (REPOSITORY / "nodes").is_dir():
        raise FaceCDMError(f"only the library is installed here, without the node pack: {instead}")


def require_comfyui(options: argparse.Namespace) -> None:
    """Raise FaceCDMError if a ComfyUI is to be started and its folder is none. Call it before a file is written."""
    if options.comfyui and not options.server:
        check_comfyui(options.comfyui, "--comfyui")


async def _ask(address: str) -> None:
    """Ask a server for its state. Raises ServerUnreachable, BadAnswer."""
    async with Client(address, patience=5) as client:
        await client.system_stats()


@contextlib.contextmanager
def running_server(options: argparse.Namespace) -> Iterator[tuple[str, "LocalServer | None"]]:
    """Provide a server that answers while the block runs.

    Yields (address, the server if it was started here, else None). Raises ServerUnreachable, BadAnswer.
    """
    if options.server:
        asyncio.run(_ask(options.server))
        yield options.server, None
        return
    if not options.comfyui:
        raise FaceCDMError("which ComfyUI? name its folder with --comfyui, or a running one with --server")
    require_pack("start ComfyUI with it yourself, and name that server with --server")
    from ..comfy_api.server import LocalServer, has_accelerator, link_pack

    base = (options.base or options.comfyui).absolute()
    with writing(f"{base} could not be prepared"):
        link_pack(REPOSITORY, base)
        if options.base:  # never change the input folder of the user's ComfyUI
            copy_examples(base / "input")
    with LocalServer(options.comfyui.absolute(), base, port=options.port, cpu=not has_accelerator()) as local:
        yield local.address, local


def open_meter(options: argparse.Namespace, references: list[Reference]) -> SimilarityMeter | None:
    """A meter with the references added. Without a face pack, print a message and return None. Raises NoFace."""
    base = options.base or options.comfyui
    try:
        if base is None:
            raise MissingModel("name the base directory with --base")
        meter = SimilarityMeter(base / "models", options.pack)
    except FaceCDMError as error:
        print(f"Identity similarity is not measured: {error}", file=sys.stderr)
        return None
    for item in references:
        meter.add_reference(item.name, item.picture)
    return meter
