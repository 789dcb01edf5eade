"""`python -m facecdm.quickstart.lock`: write packages.lock anew. Needs uv.

The lock holds versions and hashes of the demo's packages for Python 3.10 – 3.13 on Linux, Windows and macOS.
"""

import subprocess
import tempfile
from pathlib import Path

from ..files import REPOSITORY
from .environment import COMFYUI_NEEDS, LOCK, TORCH

# What install.py would install.
INSIGHTFACE_NEEDS = ("onnx", "scikit-image", "requests", "onnxruntime", "opencv-python-headless", "insightface")
# Other builds of what is listed, and torch with what its wheels for NVIDIA's GPUs need.
LEFT_OUT = ("opencv-python", *TORCH, "triton", "nvidia-*", "cuda-*")


def main() -> None:
    names = [*COMFYUI_NEEDS, *INSIGHTFACE_NEEDS]
    with tempfile.TemporaryDirectory() as folder:
        needs = Path(folder) / "needs.in"
        needs.write_text("\n".join(names), encoding="utf-8")
        command = ["uv", "pip", "compile", str(needs), str(REPOSITORY / "requirements.txt"), "--universal"]
        command += ["--python-version", "3.10", "--generate-hashes", "--no-header", "--no-annotate", "--quiet"]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    LOCK.write_text(without(text, LEFT_OUT), encoding="utf-8")


def without(text: str, left_out: tuple[str, ...]) -> str:
    """The lock without some packages; `*` at the end of a name stands for any end."""
    kept, keep = [], True
    for line in text.splitlines(keepends=True):
        if not line.startswith(" "):
            name = line.partition("==")[0]
            keep = not any(name.startswith(end[:-1]) if end.endswith("*") else name == end for end in left_out)
        kept += [line] * keep
    return "".join(kept)


if __name__ == "__main__":
    main()
