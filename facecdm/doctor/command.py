"""`python -m facecdm doctor`: what is installed, what is missing, and what to do about it."""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

from .. import __version__
from ..errors import FaceCDMError
from ..files import REPOSITORY as PACK
from .finding import MISSING, NOTE, OK, WARNING, Finding
from .models import check_models

OLDEST_COMFYUI = (0, 3, 75)
# package → who needs it
OPTIONAL = {
    "matplotlib": "draws the heat map of Compare Faces",
    "diffusers": "runs the adapter outside ComfyUI",
    "accelerate": "loads diffusers models with less memory",
    "peft": "loads LoRA files into diffusers models",
}

Check = Callable[[], Iterator[Finding]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--comfyui", type=Path, metavar="DIR", help="the ComfyUI folder (default: the one around this pack)")
    add("--base", type=Path, metavar="DIR", help="its base directory, where that is another folder")
    add("--json", action="store_true", help="for programs: a list of findings")


def main(options: argparse.Namespace) -> int:
    """0 where portraits can be made here, 1 where something for it is missing."""
    findings = list(examine(options.comfyui or find_comfyui(), options.base))
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False))
    else:
        print("\n".join(lines(findings)))
    return int(any(finding.level == MISSING for finding in findings))


def find_comfyui() -> Path | None:
    """The ComfyUI whose custom_nodes holds this pack, else the quick start's, else None."""
    named = os.environ.get("FACECDM_COMFYUI")
    # Unresolved too: the pack may be linked into custom_nodes, and called from there.
    around = [Path(named)] if named else [PACK.parent.parent, Path.cwd().parent.parent, Path.cwd()]
    for folder in (*around, PACK / ".quickstart" / "ComfyUI"):
        if (folder / "main.py").is_file() and (folder / "comfy").is_dir():
            return folder
    return None


def base_of(comfyui: Path | None) -> Path | None:
    """Where models lie when nobody says."""
    if named := os.environ.get("FACECDM_BASE"):
        return Path(named)
    quickstart = PACK / ".quickstart"
    return quickstart / "base" if comfyui == quickstart / "ComfyUI" else comfyui


def examine(comfyui: Path | None, base: Path | None = None) -> Iterator[Finding]:
    """All findings, the most basic first. A check that itself breaks is a finding too."""
    base = base or base_of(comfyui)
    checks: list[Check] = [check_python, check_torch, lambda: check_comfyui(comfyui)]
    if importlib.util.find_spec("torch"):  # all else stands on it
        checks += [check_faces, check_runtime, check_optional, lambda: check_models(base)]
    for check in checks:
        try:
            yield from check()
        except FaceCDMError as error:
            yield Finding(MISSING, "models", str(error))
        except Exception as error:  # a doctor goes on to the next symptom
            yield Finding(WARNING, "doctor", f"a check failed with {type(error).__name__}: {error}")


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_python() -> Iterator[Finding]:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    known = (3, 10) <= sys.version_info[:2] <= (3, 13)
    yield Finding(OK if known else WARNING, "python", text, "" if known else "FaceCDM is tested on 3.10 - 3.13")


def check_torch() -> Iterator[Finding]:
    try:
        import torch
    except ImportError as error:
        yield Finding(
            MISSING,
            "torch",
            f"PyTorch cannot be imported: {error}",
            "run this with the Python that runs your ComfyUI, or `python quickstart.py demo`",
        )
        return
    if torch.cuda.is_available():
        device = torch.cuda.get_device_properties(0)
        where = f"{device.name}, {device.total_memory / 2**30:.0f} GiB"
    elif torch.backends.mps.is_available():
        where = "Apple GPU (MPS)"
    else:
        where = "no GPU: everything runs on the CPU"
    yield Finding(OK, "torch", f"torch {torch.__version__} · {where}")


def check_comfyui(comfyui: Path | None) -> Iterator[Finding]:
    if comfyui is None:
        yield Finding(MISSING, "comfyui", "no ComfyUI around this pack", "name yours with --comfyui DIR")
        return
    file = comfyui / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    if not (comfyui / "main.py").is_file():
        yield Finding(MISSING, "comfyui", f"{comfyui} has no main.py", "name the ComfyUI folder with --comfyui")
    elif found is None:
        yield Finding(WARNING, "comfyui", f"ComfyUI of an unknown version in {comfyui}")
    elif tuple(map(int, found.groups())) < OLDEST_COMFYUI:
        oldest = ".".join(map(str, OLDEST_COMFYUI))
        yield Finding(MISSING, "comfyui", f"ComfyUI {found[0]} in {comfyui} is too old", f"update it to {oldest}")
    else:
        yield Finding(OK, "comfyui", f"ComfyUI {found[0]} in {comfyui}")


def check_faces() -> Iterator[Finding]:
    """InsightFace and what it imports."""
    try:
        from ..faces.providers import import_insightface

        import_insightface()
    except Exception as error:  # MissingPackage, or whatever a broken install raises
        yield Finding(MISSING, "insightface", str(error), f"run `{sys.executable} install.py` in {PACK}")
        return
    yield Finding(OK, "insightface", f"insightface {version('insightface')} · onnx {version('onnx')}")


def check_runtime() -> Iterator[Finding]:
    from ..faces.providers import installed_runtimes

    runtimes = installed_runtimes()
    named = ", ".join(f"{name} {version(name)}" for name in runtimes) or "none installed by pip"
    if len(runtimes) > 1:
        others = " ".join(name for name in runtimes if name != "onnxruntime")
        yield Finding(
            WARNING,
            "onnxruntime",
            f"several ONNX Runtimes: {named}; they overwrite each other",
            f"pip uninstall {' '.join(runtimes)}, then pip install {others}",
        )
    try:
        import onnxruntime
    except ImportError as error:
        yield Finding(
            MISSING,
            "onnxruntime",
            f"onnxruntime cannot be imported ({named}): {error}",
            f"run `{sys.executable} install.py` in {PACK}",
        )
        return
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    yield Finding(OK, "onnxruntime", f"{named} · providers: {', '.join(providers)}")
    if _has_cuda() and "CUDA" not in providers:
        yield Finding(
            NOTE,
            "onnxruntime",
            "faces are found on the CPU although there is an NVIDIA GPU",
            "for speed: pip uninstall onnxruntime, then pip install onnxruntime-gpu",
        )


def _has_cuda() -> bool:
    try:
        import torch
    except ImportError:
        return False
    return torch.cuda.is_available() and torch.version.cuda is not None


def check_optional() -> Iterator[Finding]:
    for package, purpose in OPTIONAL.items():
        if found := version(package):
            yield Finding(OK, package, f"{package} {found}")
        else:
            yield Finding(NOTE, package, f"{package} is not installed; it {purpose}", f"pip install {package}")


def lines(findings: list[Finding]) -> Iterator[str]:
    """The findings as a person reads them."""
    yield f"FaceCDM {__version__}"
    for finding in findings:
        yield f"  {finding.level:8} {finding.text}"
        if finding.advice:
            yield f"  {'':8}   → {finding.advice}"
    missing = sum(finding.level == MISSING for finding in findings)
    yield f"{missing} missing: see the arrows" if missing else "Portraits can be made here."
