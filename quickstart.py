#!/usr/bin/env python3
"""FaceCDM's quick start. Needs Python 3.10 - 3.13 and nothing else.

    python quickstart.py demo      portraits from two references, with a contact sheet
    python quickstart.py demo --reference me.jpg --prompt "a woman, long red hair, smiling"
    python quickstart.py demo --comfyui DIR      in the ComfyUI that you have
    python quickstart.py test      the whole test suite; further arguments go to pytest (-n 0: in one process)

Everything is put into .quickstart/ beside this file: a Python environment, a ComfyUI, face models. Each step is done
once; a set-up that was stopped continues. Delete the folder to start again. (As root, `test` also installs Debian's
chromium where there is no browser.) FACECDM_COMFYUI=DIR lets `test` run on your ComfyUI, with the Python that runs it
(else named in FACECDM_PYTHON): missing packages go into .quickstart/, not into your environment.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # the Python of ComfyUI's portable build does not add it
# A process per processor, four at most. The tests of a file stay in one process, and browser tests come last.
IN_PARALLEL = ("--numprocesses=auto", "--maxprocesses=4", "--dist=loadfile", "--no-loadscope-reorder")


def demo(arguments: list[str]) -> int:
    from facecdm.apps.portrait import add_arguments
    from facecdm.quickstart import environment, paths

    parser = argparse.ArgumentParser(
        prog="quickstart.py demo", allow_abbrev=False, description="Make portraits of the people in reference images."
    )
    parser.add_argument("--comfyui", metavar="DIR", help="use this ComfyUI, with its own Python")
    parser.add_argument("--python", metavar="PATH", help="the Python that runs that ComfyUI")
    add_arguments(parser)
    options = vars(parser.parse_args(arguments))
    python, comfyui = environment.set_up(options.pop("comfyui"), options.pop("python"), tests=False)
    passed = [word for name, value in options.items() for word in as_arguments(name, value)]
    command = ["facecdm", "portrait", "--comfyui", str(comfyui), "--base", str(paths.BASE), *passed]
    return hand_over(python, command, {})


def as_arguments(name: str, value: object) -> list[str]:
    """An option as typed. Paths become absolute, since the demo runs in the clone."""
    option = "--" + name.replace("_", "-")
    if value is None or value is False:
        return []
    if value is True:
        return [option]
    values = value if isinstance(value, list) else [value]
    return [f"{option}={os.path.abspath(one) if isinstance(one, Path) else one}" for one in values]


def test(arguments: list[str]) -> int:
    from facecdm.quickstart import browser, environment, paths

    asked = {name: os.environ.get(f"FACECDM_{name}") for name in ("COMFYUI", "PYTHON", "BASE", "FRONTEND")}
    python, comfyui = environment.set_up(asked["COMFYUI"], asked["PYTHON"], tests=True)
    settings = {
        "FACECDM_COMFYUI": str(comfyui),
        "FACECDM_BASE": asked["BASE"] or str(paths.BASE),
        "FACECDM_FRONTEND": asked["FRONTEND"] or str(paths.FRONTEND),
    }
    if why_not := browser.get_browser(python):
        print(f"Note: tests in a browser are skipped: {why_not}", file=sys.stderr)
        settings["FACECDM_NO_BROWSER"] = why_not
    return hand_over(python, ["-m", "pytest", *IN_PARALLEL, *arguments], settings)


def hand_over(python: Path, arguments: list[str], environment: dict[str, str]) -> int:
    """Continue in the environment's Python."""
    command = [str(python), *arguments]
    environment = {**os.environ, **environment}
    sys.stdout.flush()
    if os.name != "nt":
        os.chdir(HERE)
        os.execve(command[0], command, environment)
    child = subprocess.Popen(command, cwd=HERE, env=environment)
    while True:
        try:
            return child.wait()
        except KeyboardInterrupt:  # the child gets it too, and cleans up
            continue


def file_error(error: OSError) -> str:
    """The path and the reason of an error of the file system, and what to do."""
    reason = f"{error.filename or HERE / '.quickstart'}: {error.strerror or error}"
    return f"{reason}. It needs a clone that you can write to, and about 8 GB of free space."


def main(arguments: list[str]) -> int:
    for stream in (sys.stdout, sys.stderr):  # a console that lacks a character shows a replacement
        getattr(stream, "reconfigure", dict)(errors="replace")
    command = {"demo": demo, "test": test}.get(arguments[0] if arguments else "")
    if command is None:
        print(__doc__)
        return 0 if arguments[:1] in ([], ["-h"], ["--help"]) else 2
    if sys.version_info < (3, 10):  # noqa: UP036 - a user may start it with an older one
        print(f"FaceCDM needs Python 3.10 - 3.13; this is {sys.version.split()[0]}.", file=sys.stderr)
        return 1
    if sys.version_info >= (3, 14):
        print("Note: FaceCDM is made for Python 3.10 - 3.13; this one is newer.", file=sys.stderr)
    from facecdm.errors import FaceCDMError
    from facecdm.quickstart.steps import SetupError

    try:
        return command(arguments[1:])
    except (SetupError, FaceCDMError) as error:
        print(f"\nFaceCDM could not be set up: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"\nFaceCDM could not be set up: {file_error(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nStopped. The same command continues from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
