"""ONNX Runtime's providers and packages, and the import of InsightFace."""

import importlib.util
from importlib import metadata

from ..errors import FaceCDMError, MissingPackage

CPU = "CPUExecutionProvider"
# ONNX Runtime's names; it ignores unknown ones silently.
PROVIDERS = {
    "auto": (
        "CUDAExecutionProvider",
        "MIGraphXExecutionProvider",
        "ROCMExecutionProvider",
        "DmlExecutionProvider",
    ),
    "CUDA": ("CUDAExecutionProvider",),
    "ROCm": ("MIGraphXExecutionProvider", "ROCMExecutionProvider"),
    "CoreML": ("CoreMLExecutionProvider",),
    "DirectML": ("DmlExecutionProvider",),
    "CPU": (),
}
PACKAGES = {
    "CUDA": "onnxruntime-gpu",
    "ROCm": "onnxruntime-rocm",
    "CoreML": "onnxruntime",
    "DirectML": "onnxruntime-directml",
}
_VARIANTS = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-rocm",
    "onnxruntime-migraphx",
    "onnxruntime-directml",
    "onnxruntime-openvino",
    "onnxruntime-silicon",
)

# (module, package): insightface 2 needs these besides an ONNX Runtime
_NEEDS = (
    ("onnx", "onnx"),
    ("cv2", "opencv-python-headless"),
    ("skimage", "scikit-image"),
    ("scipy", "scipy"),
    ("tqdm", "tqdm"),
    ("requests", "requests"),
)


def installed_runtimes() -> list[str]:
    """The ONNX Runtime packages in this environment. Two or more overwrite each other's files."""
    have = []
    for name in _VARIANTS:
        try:
            metadata.version(name)
            have.append(name)
        except metadata.PackageNotFoundError:
            pass
    return have


def import_insightface():
    """Import and return insightface. Raises MissingPackage with the command that installs it."""
    try:
        import insightface
        import insightface.app.common
        import insightface.model_zoo

        return insightface
    except ImportError as error:
        raise MissingPackage(
            f"Finding faces needs the package insightface ({error}). In ComfyUI's Python: "
            f"{_install_commands()}. Then restart ComfyUI."
        ) from error


def _install_commands() -> str:
    """The pip commands. --no-deps keeps out insightface's plain onnxruntime and opencv-python, which would
    overwrite onnxruntime-gpu and opencv-python-headless."""
    lacking = [package for module, package in _NEEDS if importlib.util.find_spec(module) is None]
    if not installed_runtimes():
        lacking.append("onnxruntime")
    commands = ["`python -m pip install --no-deps --upgrade insightface`"]
    if lacking:
        commands.append(f"`python -m pip install {' '.join(lacking)}`")
    gpu = " (for NVIDIA onnxruntime-gpu in place of onnxruntime)" if "onnxruntime" in lacking else ""
    return " and ".join(commands) + gpu


def choose_providers(wanted: str, available: list[str]) -> tuple[list[str], str]:
    """(providers for a session, CPU last; a warning for the user or "").

    wanted: a key of PROVIDERS. available: onnxruntime.get_available_providers(). Raises FaceCDMError.
    """
    if wanted not in PROVIDERS:
        raise FaceCDMError(f"provider is {wanted!r}; choose one of {', '.join(PROVIDERS)}.")
    have = [name for name in PROVIDERS[wanted] if name in available][:1]
    warning = ""
    if not have and wanted not in ("auto", "CPU"):
        offers = ", ".join(available)
        warning = (
            f"{wanted} was asked for, but this ONNX Runtime offers only {offers}; the CPU is used. "
            f"To get {wanted}: uninstall every onnxruntime package, then install {PACKAGES[wanted]} alone."
        )
    runtimes = installed_runtimes()
    if len(runtimes) > 1 and not have and wanted != "CPU":
        warning = (
            f"{warning} {' and '.join(runtimes)} are installed together, which disables the GPU: "
            "uninstall all of them, then install one."
        ).strip()
    return have + [CPU], warning
