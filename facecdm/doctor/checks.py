"""Checks of Python, PyTorch, ComfyUI, InsightFace and ONNX Runtime."""

import importlib.metadata
import importlib.util
import platform
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..comfyui_folders import is_comfyui
from ..errors import FaceCDMError
from ..files import REPOSITORY
from ..models.folders import ModelFolders
from .finding import MISSING, NOTE, OK, WARNING, Finding
from .models import check_models, check_workflow

OLDEST_PYTHON, TESTED_PYTHON = (3, 10), (3, 11)
OLDEST_COMFYUI = (0, 3, 75)
# package → purpose
OPTIONAL = {
    "matplotlib": "needed by Evaluate Identity, for its plots",
    "diffusers": "runs adapters outside ComfyUI",
    "accelerate": "loads diffusers models with less memory",
    "peft": "loads LoRA files into diffusers models",
}

Check = Callable[[], Iterator[Finding]]


def examine(
    comfyui: Path | None,
    base: Path | None = None,
    workflow: str | None = None,
    configs: Sequence[Path] = (),
) -> Iterator[Finding]:
    """All findings, the most basic first. `base` defaults to `comfyui`. The models of `workflow` are checked. `configs`
    are files like extra_model_paths.yaml, which is read where ComfyUI has one.

    A failing check gives a finding, too.
    """
    base = base or comfyui
    folders = ModelFolders(base / "models", comfyui, configs) if base else None
    checks: list[Check] = [check_python, check_torch, lambda: check_comfyui(comfyui, base)]
    if importlib.util.find_spec("torch"):  # all other checks need torch
        checks += [check_faces, check_runtime, check_optional, lambda: check_models(folders)]
    if workflow:
        checks.append(lambda: check_workflow(workflow, folders))
    for check in checks:
        try:
            yield from check()
        except FaceCDMError as error:
            yield Finding(MISSING, "models", str(error))
        except Exception as error:  # the other checks go on
            yield Finding(WARNING, "doctor", f"a check failed with {type(error).__name__}: {error}")


def version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_python() -> Iterator[Finding]:
    text = f"Python {platform.python_version()} on {platform.system()} {platform.machine()} ({sys.executable})"
    if sys.version_info[:2] < OLDEST_PYTHON:
        yield Finding(MISSING, "python", text, "FaceCDM needs Python 3.10 or newer")
    elif sys.version_info[:2] == TESTED_PYTHON:
        yield Finding(OK, "python", text)
    else:
        yield Finding(NOTE, "python", text, "FaceCDM's tests are run on Python 3.11 only")


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
    from ..tensor_file import SAFE_TORCH, pickles_are_safe

    if not pickles_are_safe():
        safe = ".".join(map(str, SAFE_TORCH))
        text = f"torch {torch.__version__} can run code of a crafted .bin, .pt or .pth file, so FaceCDM reads none"
        yield Finding(WARNING, "torch", text, f"update torch to {safe} or newer, or get files as .safetensors")


def check_comfyui(comfyui: Path | None, base: Path | None = None) -> Iterator[Finding]:
    if comfyui is None and base is not None:
        yield Finding(
            WARNING,
            "comfyui",
            f"base directory {base}; ComfyUI's version is not known",
            "name the ComfyUI folder with --comfyui DIR",
        )
        return
    if comfyui is None:
        yield Finding(MISSING, "comfyui", "no ComfyUI around this pack", "name the ComfyUI folder with --comfyui DIR")
        return
    file = comfyui / "comfyui_version.py"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    if not is_comfyui(comfyui):
        yield Finding(
            MISSING, "comfyui", f"{comfyui} is no ComfyUI folder", "name the ComfyUI folder with --comfyui DIR"
        )
    elif found is None:
        yield Finding(WARNING, "comfyui", f"ComfyUI of an unknown version in {comfyui}")
    elif tuple(map(int, found.groups())) < OLDEST_COMFYUI:
        oldest = ".".join(map(str, OLDEST_COMFYUI))
        yield Finding(MISSING, "comfyui", f"ComfyUI {found[0]} in {comfyui} is too old", f"update it to {oldest}")
    else:
        yield Finding(OK, "comfyui", f"ComfyUI {found[0]} in {comfyui}")


def check_faces() -> Iterator[Finding]:
    """InsightFace and its imports."""
    try:
        from ..faces.providers import import_insightface

        import_insightface()
    except Exception as error:  # MissingPackage; a broken installation raises any type
        yield Finding(MISSING, "insightface", str(error), f"run `{sys.executable} install.py` in {REPOSITORY}")
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
            f"run `{sys.executable} install.py` in {REPOSITORY}",
        )
        return
    providers = [name.removesuffix("ExecutionProvider") for name in onnxruntime.get_available_providers()]
    yield Finding(OK, "onnxruntime", f"{named} · providers: {', '.join(providers)}")
    if _has_cuda() and "CUDA" not in providers:
        yield Finding(
            NOTE,
            "onnxruntime",
            "faces are detected on the CPU although there is an NVIDIA GPU",
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
            yield Finding(NOTE, package, f"{package} is not installed. It {purpose}", f"pip install {package}")
