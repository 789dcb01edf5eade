"""The command line: `python -m facecdm COMMAND`. A command's module is imported when it is called."""

import argparse
import importlib
import sys

from . import __version__
from .errors import FaceCDMError

# command → (module with add_arguments(parser) and main(options) → exit code, one line of help)
COMMANDS = {
    "doctor": (".doctor.command", "what is installed, what is missing, and what to do about it"),
    "portrait": (".apps.portrait", "portraits of the people in reference pictures, with a contact sheet"),
    "gallery": (".apps.gallery", "the shipped workflows on one sheet, with the settings of every picture"),
    "batch": (".apps.batch.command", "hundreds of pictures from a plan, on one server, several, or a Ray cluster"),
    "dataset": (".training.dataset.cli", "a folder of pictures becomes a data set that can be trained on"),
    "train": (".training.cli", "train an adapter and a LoRA in three stages from a data set"),
    "evaluate": (".evaluation.cli", "how much pictures show the person: tables, plots, a report"),
    "demo": (".demo.cli", "train and measure the embedded demo model"),
}


def main(arguments: list[str] | None = None) -> int:
    """Exit code: 0 done, 1 a mistake that the message explains, 2 a command line that makes no sense."""
    arguments = sys.argv[1:] if arguments is None else arguments
    for stream in (sys.stdout, sys.stderr):  # consoles that lack a letter show another one
        getattr(stream, "reconfigure", dict)(errors="replace")
    parser = argparse.ArgumentParser(prog="facecdm", description="Pictures of a fixed face.")
    parser.add_argument("--version", action="version", version=f"FaceCDM {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (_, line) in COMMANDS.items():
        commands.add_parser(name, help=line, add_help=False)
    if not arguments or arguments[0] not in COMMANDS:
        parser.parse_args(arguments or ["--help"])  # prints help, the version or the mistake, and exits
    module = importlib.import_module(COMMANDS[arguments[0]][0], __package__)
    command = argparse.ArgumentParser(prog=f"facecdm {arguments[0]}", description=COMMANDS[arguments[0]][1])
    module.add_arguments(command)
    if hasattr(module, "add_place_arguments"):  # quickstart.py answers these by itself
        module.add_place_arguments(command)
    try:
        return module.main(command.parse_args(arguments[1:])) or 0
    except FaceCDMError as error:
        print(f"facecdm {arguments[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
