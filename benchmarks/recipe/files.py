"""Files that stages make by themselves."""

import json
import re
import shutil
from pathlib import Path

import torch
import yaml
from shared import ROOT, lora_beside
from torch import Tensor

from facecdm.demo import paths
from facecdm.demo.data import read_labels

from .plan import LORA_RANK, Plan

MOST = 60e6  # bytes of all weights together


def small_world(plan: Plan) -> None:
    """FaceWorld for --smoke: all of `val`, twenty people of the others, and pictures with every caption's words."""
    plan.world.mkdir(parents=True, exist_ok=True)
    for split in ("train", "wide", "val"):
        labels = read_labels(plan.how.faceworld, (split,))
        known, kept = set(), []
        for label in labels:
            words = set(re.findall(r"[a-z-]+", label["caption"]))
            some = label["view"] < 2 and int(label["identity"].split("-")[1]) < 20
            if split == "val" or some or words - known:
                kept.append(json.dumps(label))
                known |= words
        (plan.world / f"{split}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
        if not (plan.world / split).exists():
            (plan.world / split).symlink_to(plan.how.faceworld / split)


def halve(plan: Plan) -> None:
    """Write adapter and LoRA in half precision; check that all weights together are small enough."""
    from safetensors.torch import save_file

    from facecdm.adapter.native import load_adapter, save_adapter
    from facecdm.tensor_file import read_tensors

    trained = plan.run / "drawn" / "adapter.safetensors"
    save_adapter(load_adapter(trained).half(), plan.weights, paths.ADAPTER.stem, overwrite=True)
    tensors, metadata = read_tensors(lora_beside(trained))
    half = {name: value.to(torch.float16) for name, value in tensors.items()}
    save_file(half, plan.weights / paths.ADAPTER_LORA.name, metadata)
    size = sum(path.stat().st_size for path in plan.weights.glob("*.safetensors"))
    print(f"all weights: {size / 1e6:.1f} MB of {MOST / 1e6:.0f}")
    if size > MOST:
        raise SystemExit("the weights are too large; train with a smaller lora_rank (LORA_RANK)")


def begin_adapter(plan: Plan) -> None:
    """Copy the adapter to begin with, and its LoRA at the rank of the training."""
    from safetensors.torch import save_file

    from facecdm.tensor_file import read_tensors

    plan.begun_adapter.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(plan.how.begin_adapter, plan.begun_adapter)
    tensors, metadata = read_tensors(lora_beside_path(plan.how.begin_adapter))
    save_file(shortened(tensors, LORA_RANK), lora_beside_path(plan.begun_adapter), metadata)


def shortened(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The nearest LoRA of at most `rank`, by singular values (Eckart-Young), float32; kohya's names."""
    out = {}
    for name in sorted(name.removesuffix(".alpha") for name in tensors if name.endswith(".alpha")):
        down, up = (tensors[f"{name}.lora_{side}.weight"].float() for side in ("down", "up"))
        scale = tensors[f"{name}.alpha"].float() / len(down)
        rows, right = torch.linalg.qr(down.flatten(1).T)
        columns, left = torch.linalg.qr(up.flatten(1) * scale)
        u, values, v = torch.linalg.svd(left @ right.T)
        kept = min(rank, len(values))
        root = values[:kept].sqrt()
        out |= {
            f"{name}.alpha": torch.tensor(float(kept)),
            f"{name}.lora_down.weight": (root[:, None] * (v[:kept] @ rows.T))
            .reshape(kept, *down.shape[1:])
            .contiguous(),
            f"{name}.lora_up.weight": ((columns @ u[:, :kept]) * root)
            .reshape(len(up), kept, *up.shape[2:])
            .contiguous(),
        }
    return out


def write_workflow(plan: Plan) -> None:
    """Write the portrait workflow with the new size, and remove the portraits of an earlier run."""
    from facecdm.demo.weights import read_sizes

    graph = json.loads((ROOT / "workflows/api/portrait.json").read_text(encoding="utf-8"))
    side = read_sizes(plan.weights / paths.MODEL.name).image_size
    for node in graph.values():
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": side, "height": side}
    (plan.run / "portrait.json").write_text(json.dumps(graph, indent=1), encoding="utf-8")
    shutil.rmtree(plan.run / "portraits", ignore_errors=True)


def shorten_one_person(plan: Plan) -> None:
    """Set the steps of the stages, if --smoke shortens them."""
    path = plan.run / "one" / "one.yaml"
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    for stage, steps in zip(config["stages"].values(), plan.lengths.one_person):
        stage["steps"] = steps
    path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")


def lora_beside_path(adapter: Path) -> Path:
    """Where a training writes the LoRA of an adapter."""
    return adapter.with_name(f"{adapter.stem}_lora.safetensors")
