"""What the shipped workflows are made from; `python -m workflows.source.make` writes the JSON files."""

from . import demo, published
from .parts import Plan

PLANS: dict[str, Plan] = {plan.name: plan for plan in (*demo.ALL, *published.ALL)}
# Inputs that name a file of the user's → its folder below models/.
_FOLDERS = {"ckpt_name": "checkpoints", "control_net_name": "controlnet", "clip_name": "clip_vision"}


def needed_files(api: dict) -> set[str]:
    """The files below models/ that a workflow in API format needs and the pack does not have."""
    files = set()
    for node in api.values():
        inputs = node["inputs"]
        files |= {f"{_FOLDERS[key]}/{inputs[key]}" for key in _FOLDERS.keys() & inputs.keys()}
        if node["class_type"] == "FaceCDMLoadAdapter":
            files.add(inputs["name"])
        if node["class_type"] == "FaceCDMLoadEvaClip":
            files.add(f"clip_vision/{inputs['name']}")
    return files
