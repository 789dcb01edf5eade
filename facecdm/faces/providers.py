"""Where ONNX Runtime computes: names, what this machine has, what was really got."""

import importlib.util
from importlib import metadata

from ..errors import FaceCDMError, MissingPackage

CPU = "CPUExecutionProvider"
# The provider names are ONNX Runtime's; a wrong one is dropped by it without a word.
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

# module → package: what insightface 2 needs besides an ONNX Runtime
_NEEDS = (
    ("onnx", "onnx"),
    ("cv2", "opencv-python-headless"),
    ("skimage", "scikit-image"),
    ("scipy", "scipy"),
    ("tqdm", "tqdm"),
    ("requests", "requests"),
)


def installed_runtimes() -> list[str]:
    """Names of the ONNX Runtime packages in this environment; more than one get in each other's way."""
    have = []
    for name in _VARIANTS:
        try:
            metadata.version(name)
            have.append(name)
        except metadata.PackageNotFoundError:
            pass
    return have


def import_insightface():
    """The `insightface` module. Raises MissingPackage with the command that mends it."""
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
    """What to run here. --no-deps, because insightface would bring the plain onnxruntime and opencv-python,
    which get in the way of onnxruntime-gpu and opencv-python-headless."""
    lacking = [package for module, package in _NEEDS if importlib.util.find_spec(module) is None]
    if not installed_runtimes():
        lacking.append("onnxruntime")
    commands = ["`python -m pip install --no-deps --upgrade insightface`"]
    if lacking:
        commands.append(f"`python -m pip install {' '.join(lacking)}`")
    gpu = " (for NVIDIA onnxruntime-gpu in place of onnxruntime)" if "onnxruntime" in lacking else ""
    return " and ".join(commands) + gpu


def choose_providers(wanted: str, available: list[str]) -> tuple[list[str], str]:
    """The list for a session (CPU last) and a warning for the user, or "".

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
            f"{warning} {' and '.join(runtimes)} are installed side by side, which switches the GPU off: "
            "uninstall all of them, then install one."
        ).strip()
    return have + [CPU], warning
