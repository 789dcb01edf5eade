"""Install what the face nodes need into the Python that runs this. ComfyUI-Manager calls it after cloning.

It adds packages and changes none: every installed package is given to pip as a constraint. InsightFace is installed
without its requirements, plain onnxruntime only if no variant of it is installed, OpenCV only if there is no cv2.
`python install.py --plan` prints what it would do.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

# Imports of insightface 2, without the two that come in variants.
LIGHT = ("onnx", "scikit-image", "scipy", "tqdm", "requests")
DOCTOR = Path(__file__).resolve().parent / "facecdm"
# Packages named onnxruntime-… that are no runtime.
NO_RUNTIME = ("onnxruntime-extensions", "onnxruntime-tools", "onnxruntime-genai", "onnxruntime-easy")


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def has_runtime(installed: Iterable[str]) -> bool:
    """Whether an ONNX Runtime is among the distributions: onnxruntime, -gpu, -directml, -silicon, …"""
    return any(
        name.startswith(("onnxruntime", "ort-nightly")) and not name.startswith(NO_RUNTIME) for name in installed
    )


def plan(installed: Mapping[str, str], modules: Iterable[str]) -> list[list[str]]:
    """The pip commands (after `pip install`) for an environment.

    installed  canonical distribution name → version
    modules    which of cv2, onnxruntime can be imported, however they were installed
    """
    modules = set(modules)
    wanted = [name for name in LIGHT if name not in installed]
    if not has_runtime(installed) and "onnxruntime" not in modules:
        wanted.append("onnxruntime")
    if "cv2" not in modules:
        wanted.append("opencv-python-headless")
    commands = [wanted] if wanted else []
    if "insightface" not in installed:
        commands.append(["--no-deps", "insightface"])
    return commands


def constraints(installed: Mapping[str, str]) -> str:
    """A constraints file that keeps every installed package at its version."""
    # pip, setuptools and wheel may be pinned by the environment; odd local versions would not parse.
    lines = [
        f"{name}=={version}"
        for name, version in sorted(installed.items())
        if re.fullmatch(r"[0-9][A-Za-z0-9.+!]*", version) and name not in ("pip", "setuptools", "wheel")
    ]
    return "\n".join(lines) + "\n"


def installed_here() -> tuple[dict[str, str], list[str]]:
    """(installed distributions, importable modules)."""
    installed = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:
            installed.setdefault(canonical(name), distribution.version or "")
    return installed, [name for name in ("cv2", "onnxruntime") if importlib.util.find_spec(name)]


def installer() -> list[str]:
    """`pip install` for this Python. Environments made by uv have no pip."""
    if importlib.util.find_spec("pip") is None and (uv := shutil.which("uv")):
        return [uv, "pip", "install", "--python", sys.executable]
    return [sys.executable, "-m", "pip", "install"]


def main(arguments: list[str]) -> int:
    installed, modules = installed_here()
    commands = plan(installed, modules)
    if not commands:
        print("FaceCDM: all packages of the face nodes are installed")
        return 0
    if "--plan" in arguments:
        for command in commands:
            print("pip install", *command)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        kept = os.path.join(folder, "installed.txt")
        with open(kept, "w", encoding="utf-8") as file:
            file.write(constraints(installed))
        for command in commands:
            code = subprocess.call([*installer(), "--constraint", kept, *command])
            if code:
                print(
                    f"FaceCDM: pip could not install {' '.join(command)}: there is no network, or an installed package "
                    "would change. The pack still loads, and its face nodes name what they lack. "
                    f'`"{sys.executable}" "{DOCTOR}" doctor` says more.',
                    file=sys.stderr,
                )
                return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
