"""The command line: `python -m facecdm COMMAND`. A command's module is imported only when the command runs."""

import argparse
import contextlib
import importlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NamedTuple

from . import __version__
from .errors import FaceCDMError, MissingPackage
from .invocation import command_line


class Command(NamedTuple):
    """
    module    module with add_arguments(parser) and main(options) → exit code
    summary   one line of help
    examples  command lines, for --help
    """

    module: str
    summary: str
    examples: tuple[str, ...]


COMMANDS = {
    "doctor": Command(
        ".doctor.command",
        "say what is installed, what is missing, and what to do about it",
        ("doctor", "doctor --comfyui ~/ComfyUI"),
    ),
    "get": Command(
        ".models.command",
        "fetch the model files of a workflow, a family or a face pack",
        (
            "get sdxl_faceid_plusv2",
            "get faceid-plusv2 --for SDXL",
            "get antelopev2 --yes",
            "get sdxl_pulid --dry-run",
            "get --list",
        ),
    ),
    "portrait": Command(
        ".apps.portrait",
        "make portraits of the people in reference pictures, and a contact sheet",
        (
            "portrait --comfyui ~/ComfyUI",
            'portrait --server 127.0.0.1:8188 --reference me.jpg --prompt "a young woman, long red hair, smiling"',
        ),
    ),
    "gallery": Command(
        ".apps.gallery",
        "run the shipped workflows; write one sheet, and the settings of every picture",
        ("gallery --comfyui ~/ComfyUI", "gallery --comfyui ~/ComfyUI --adapter runs/me/adapter.safetensors --docs ."),
    ),
    "batch": Command(
        ".apps.batch.command",
        "make hundreds of pictures from a plan, on one server, several, or a Ray cluster",
        (
            "batch plan.yaml --check",
            "batch plan.yaml --resume",
            "batch jobs.csv --workflow portrait.json --server 127.0.0.1:8188",
        ),
    ),
    "dataset": Command(
        ".commands.dataset",
        "make a data set for training from a folder of pictures",
        ("dataset photos data/me --model ~/models/sd15 --faces ~/ComfyUI/models/insightface",),
    ),
    "train": Command(
        ".commands.train",
        "train an adapter and a LoRA in three stages from a data set",
        ("train config.yaml --dry-run", "train config.yaml"),
    ),
    "train-location": Command(
        ".commands.train_location",
        "give an adapter a head that finds the face's location while it samples",
        ("train-location adapter.safetensors --data data/me --out runs/me --name adapter_located",),
    ),
    "evaluate": Command(
        ".evaluation.cli",
        "measure identity similarity and prompt adherence of pictures: tables, plots, a report",
        ("evaluate pictures.csv --faces ~/ComfyUI/models/insightface --out report",),
    ),
    "demo": Command(
        ".demo.cli",
        "train the small demo model",
        (
            "demo train all --data FaceWorld --tokenizer ~/ComfyUI/comfy/sd1_tokenizer",
            "demo train-pose --data FaceWorld --tokenizer ~/ComfyUI/comfy/sd1_tokenizer --models ~/ComfyUI/models",
        ),
    ),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 error explained by a message, 2 wrong command line, 130 Ctrl-C, 143 SIGTERM."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # a console that lacks a character shows another
        getattr(stream, "reconfigure", dict)(errors="replace")
    if not arguments or arguments[0] not in COMMANDS:
        _overview().parse_args(arguments or ["--help"])  # prints help, the version or the error, and exits
    name, *arguments = arguments
    try:
        return _run(name, arguments)
    except FaceCDMError as error:
        print(f"facecdm {name}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130


def _run(name: str, arguments: list[str]) -> int:
    """Run a command. Raises MissingPackage in a Python that lacks a package, before or while the command runs."""
    try:
        module = importlib.import_module(COMMANDS[name].module, __package__)
        parser = parser_of(name)
        with _exit_on_sigterm():
            return module.main(parser.parse_args(arguments)) or 0
    except ModuleNotFoundError as error:
        if error.name is None or f"{error.name}.".startswith(f"{__package__}."):  # our own mistake
            raise
        raise MissingPackage(
            f"{sys.executable} has no package {error.name}: run this with the Python that runs your ComfyUI; if this "
            "is the one, install FaceCDM's packages into it (docs/install.md)"
        ) from error


def _overview() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=command_line(), description="Identity-preserving portraits.")
    parser.add_argument("--version", action="version", version=f"FaceCDM {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        commands.add_parser(name, help=command.summary, add_help=False)
    return parser


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of a command, with examples in its help and in that of its own commands."""
    command = COMMANDS[name]
    module = importlib.import_module(command.module, __package__)
    parser = argparse.ArgumentParser(
        prog=command_line(name), description=command.summary[0].upper() + command.summary[1:] + "."
    )
    module.add_arguments(parser)
    if hasattr(module, "add_server_arguments"):  # quickstart.py sets these itself
        module.add_server_arguments(parser)
    _add_examples(parser, command.examples)
    return parser


def _add_examples(parser: argparse.ArgumentParser, examples: tuple[str, ...]) -> None:
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = "examples:\n" + "\n".join(f"  {command_line(example)}" for example in examples)
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for own in action.choices.values():
                _add_examples(own, tuple(one for one in examples if f"{command_line(one)} ".startswith(f"{own.prog} ")))


@contextlib.contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Raise SystemExit(143) on SIGTERM while the block runs, so that servers stop and temporary files are removed."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second SIGTERM does not interrupt the clean-up
        sys.exit(143)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
