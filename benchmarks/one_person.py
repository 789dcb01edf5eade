"""One person of FaceWorld who was not used in any training: photos and a configuration for the preset `one person`.

    python benchmarks/one_person.py --faceworld FACEWORLD --identity val-0009 --models COMFYUI/models --out runs/one
    python -m facecdm dataset runs/one/photos runs/one/data --identities "one person" --pack buffalo_s --aspect 1 \\
        --faces COMFYUI/models/insightface
    python -m facecdm train runs/one/one.yaml
    python benchmarks/identity_bars.py --identity val-0009 --prompts 24 --faceworld FACEWORLD --comfyui COMFYUI \\
        --models COMFYUI/models --adapter facecdm/demo/weights/adapter.safetensors runs/one/run/adapter.safetensors

The last command shows the identity similarity before and after, without a pose. The person's last view is not among the
photos; the images are compared with it. For the nodes, copy the photos into ComfyUI's `input` folder and follow the
recipe of docs/training.md with *Load FaceCDM Demo Model* and *Load FaceCDM Demo Adapter*.
"""

import argparse
from pathlib import Path

import yaml

import shared  # noqa: F401  # isort: skip  (puts the repository on the path)
from recipe.configurations import COMMON, SAMPLED

from facecdm.demo.paths import ADAPTER, ADAPTER_LORA
from facecdm.training.dataset.faceworld import FaceWorldSource

# The preset is for SD1.5 and SDXL; the demo model is far smaller, and needs the settings of its own adapter's recipe.
FOR_THE_DEMO = COMMON | {
    "batch": 8,
    "learning_rate": 5.0e-4,
    "warmup": 10,
    "ema": 0.95,
    "drop_text": 0.05,
    "drop_face": 0.05,
    "face_region": 0.5,
    "face_window": 0.9,
}
STAGES = {
    "broad": {"steps": 150, "schedule": "constant"},
    "identity": SAMPLED | {"steps": 150, "schedule": "constant"},
    "fine": SAMPLED | {"steps": 60, "schedule": "linear", "face_window": 0.25, "background": 2.0},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--identity", default="val-0009", metavar="ID")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--adapter", type=Path, default=ADAPTER, help="the adapter to begin with; its LoRA lies beside it")
    add("--lora", type=Path, default=ADAPTER_LORA)
    add("--photos", type=int, default=11, help="the person has twelve views; the last one is kept")
    add("--threads", type=int, default=2)
    add("--out", type=Path, required=True)
    arguments = parser.parse_args()
    every = FaceWorldSource(arguments.faceworld, ("val",)).items()
    items = [item for item in every if item.identity == arguments.identity]
    photos = arguments.out / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for number, item in enumerate(items[: min(arguments.photos, len(items) - 1)]):
        path = photos / f"{number:02d}{Path(item.name).suffix}"
        path.write_bytes(item.data())
        path.with_suffix(".txt").write_text(item.caption or "", encoding="utf-8")
    config = {
        "base": "demo",
        "data": "data",
        "out": "run",
        "preset": "one person",
        "adapter": str(arguments.adapter.absolute()),
        "lora": str(arguments.lora.absolute()),
        "recogniser": str((arguments.models / "insightface/models/buffalo_s/w600k_mbf.onnx").absolute()),
        "held_out": 0.0,
        "threads": arguments.threads,
        "all": FOR_THE_DEMO,
        "stages": STAGES,
    }
    (arguments.out / "one.yaml").write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
    print(f"{len(list(photos.glob('*.txt')))} photos in {photos}; configuration: {arguments.out / 'one.yaml'}")


if __name__ == "__main__":
    main()
