"""The subgraph blueprints, and the command that writes subgraphs/*.json.

    python -m workflows.source.blueprints ADDRESS

ADDRESS, as 127.0.0.1:8188, is that of a running ComfyUI with this pack, which is asked for the nodes' inputs and
outputs. `workflows.source.make` writes them, too.
"""

import json
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from facecdm.models.catalogue import EVA, SIGLIP, SIGLIP_SO400M, VIT_H

from . import published
from .demo import FRAMED, SIDE
from .flux import BOXES
from .parts import Node, n
from .subgraph import Blueprint, text

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"


def of_apply(*names: str) -> dict[str, tuple[str, str]]:
    """Widgets of the node "apply" under their own names."""
    return {name: ("apply", name) for name in names}


def of_regions() -> dict[str, tuple[str, str]]:
    return {name: ("regions", name) for name in ("width", "height", "boxes")}


def person(
    title: str, pack: str, adapter: str, tower: str = "", more: dict[str, Node] | None = None, **settings: float
) -> Blueprint:
    """Model and photo in, model out; `tower`: the vision tower's file where the adapter encodes the photo, too.

    `settings` are inputs of Apply FaceCDM.
    """
    pictures = {"clip_vision": "@adapter:2", "image": "@in:photo"} if tower else {}
    return Blueprint(
        f"Person from a photo ({title})",
        f"Shows the person of a photo in an image: {title}.",
        published.pack(pack)
        | {"faces": n("FaceCDMDetectFaces", analyzer="@analyzer", image="@in:photo")}
        | published.adapter(adapter, tower or "auto")
        | {
            "apply": n(
                "FaceCDMApply",
                model="@in:model",
                adapter="@adapter",
                faces="@faces",
                **{"face_strength": 0.8, **settings, **pictures},
            ),
        }
        | (more or {}),
        {"model": "MODEL", "photo": "IMAGE"},
        {"model": "@apply"},
        of_apply("face_strength", "keep_prompt"),
    )


def instantid() -> Blueprint:
    control = {
        "pose": n("FaceCDMExtractPose", image="@in:photo", analyzer="@analyzer", drawing="InstantID 5 points"),
        "net": n("ControlNetLoader", control_net_name="instantid/diffusion_pytorch_model.safetensors"),
        **published.to_controlnet("@in:positive", "@in:negative"),
    }
    plain = person("SDXL InstantID", "antelopev2", "instantid/ip-adapter.bin", more=control)
    return Blueprint(
        plain.name,
        plain.description,
        plain.nodes,
        plain.inputs | {"positive": "CONDITIONING", "negative": "CONDITIONING"},
        plain.outputs | {"positive": "@control", "negative": "@control:1"},
        plain.widgets | {"ControlNet strength": ("control", "strength")},
    )


DEMO = Blueprint(
    "Person from a photo (demo model)",
    "Shows the person of a photo in an image of the demo model.",
    {
        **published.pack("buffalo_s"),
        "faces": n("FaceCDMDetectFaces", analyzer="@analyzer", image="@in:photo", **FRAMED),
        "adapter": n("FaceCDMLoadDemoAdapter", model="@in:model"),
        "pose": n("FaceCDMExtractPose", image="@faces:1", analyzer="@analyzer"),
        "apply": n("FaceCDMApply", model="@adapter", adapter="@adapter:1", faces="@faces", pose="@pose:1"),
    },
    {"model": "MODEL", "photo": "IMAGE"},
    {"model": "@apply"},
    of_apply("face_strength", "keep_prompt"),
)
PLUS_V2 = "ipadapter/ip-adapter-faceid-plusv2_{}.bin"


@dataclass(frozen=True)
class People:
    """A family for two people: face pack, settings of the detection, nodes, and inputs of Apply FaceCDM to People."""

    pack: str
    detection: dict
    nodes: dict[str, Node]
    apply: dict[str, str]


def withanyone() -> Blueprint:
    """Model and a photo of each person in, model out; one prompt says who is where."""
    nodes = published.pack("antelopev2")
    for side in ("left", "right"):
        nodes[side] = n("FaceCDMDetectFaces", analyzer="@analyzer", image=f"@in:{side} photo")
    nodes |= published.adapter("ipadapter/withanyone.safetensors", SIGLIP)
    given = {"fill": "regions only", "softness": 0.0, "boxes": BOXES}
    nodes["regions"] = n("FaceCDMPersonRegions", width=1024, height=1024, **given)
    nodes["apply"] = n(
        "FaceCDMApplyPeople",
        model="@in:model",
        adapter="@adapter",
        masks="@regions",
        faces_1="@left",
        faces_2="@right",
        clip_vision="@adapter:2",
        image_1="@in:left photo",
        image_2="@in:right photo",
    )
    return Blueprint(
        "Two people (FLUX.1 WithAnyone)",
        "Shows two people in an image, the face of each in a box: FLUX.1 WithAnyone.",
        nodes,
        {"model": "MODEL", "left photo": "IMAGE", "right photo": "IMAGE"},
        {"model": "@apply"},
        of_regions() | of_apply("face_strength", "image_strength"),
    )


def infiniteyou() -> Blueprint:
    """InfuseNet acts on the prompts alone."""
    return Blueprint(
        "Person from a photo (FLUX.1 InfiniteYou)",
        "Shows the person of a photo in an image: FLUX.1 InfiniteYou.",
        {
            **published.pack("arcface_ir_se50"),
            "faces": n("FaceCDMDetectFaces", analyzer="@analyzer", image="@in:photo"),
            **published.adapter("ipadapter/infiniteyou_aes_stage2.bin"),
            "net": n("ControlNetLoader", control_net_name="infusenet_aes_bf16.safetensors"),
            "pose": n("EmptyImage", color=0),
            **published.to_controlnet("@in:positive", "@in:negative", vae="@in:vae", strength=1.0),
        },
        {"photo": "IMAGE", "positive": "CONDITIONING", "negative": "CONDITIONING", "vae": "VAE"},
        {"positive": "@control", "negative": "@control:1"},
        {"strength": ("control", "strength")},
    )


def ip_adapter() -> Blueprint:
    """Model and picture in, model out."""
    return Blueprint(
        "Style of a picture (FLUX.1 IP-Adapter)",
        "Gives an image the content and style of a picture: InstantX's IP-Adapter for FLUX.1.",
        {
            **published.adapter("ipadapter/instantx-flux-ip-adapter.bin", SIGLIP_SO400M),
            "apply": n(
                "FaceCDMApply",
                model="@in:model",
                adapter="@adapter",
                clip_vision="@adapter:2",
                image="@in:picture",
                image_strength=0.7,
            ),
        },
        {"model": "MODEL", "picture": "IMAGE"},
        {"model": "@apply"},
        of_apply("image_strength", "start_at", "end_at"),
    )


PEOPLE_SDXL = People(
    "buffalo_l",
    {},
    published.adapter(PLUS_V2.format("sdxl"), VIT_H),
    {"adapter": "@adapter", "clip_vision": "@adapter:2", "image_1": "@in:left photo", "image_2": "@in:right photo"},
)
PEOPLE_DEMO = People(
    "buffalo_s",
    FRAMED,
    {
        "adapter": n("FaceCDMLoadDemoAdapter", model="@in:model"),
        "crops": n("ImageStitch", image1="@left:1", image2="@right:1"),
        "pose": n("FaceCDMExtractPose", image="@crops", analyzer="@analyzer"),
    },
    {"adapter": "@adapter:1", "pose": "@pose:1"},
)


def two_people(title: str, people: People, model: str, *, size: int, softness: float) -> Blueprint:
    """Model, a photo and a prompt of each person in; model and conditioning out."""
    regions = {"boxes": "0 0 0.5 1\n0.5 0 1 1", "softness": softness}
    nodes = published.pack(people.pack)
    for side in ("left", "right"):
        nodes[side] = n("FaceCDMDetectFaces", analyzer="@analyzer", image=f"@in:{side} photo", **people.detection)
    nodes |= people.nodes
    nodes["regions"] = n("FaceCDMPersonRegions", width=2 * size, height=size, **regions)
    given = people.apply | {"masks": "@regions", "faces_1": "@left", "faces_2": "@right"}
    nodes["apply"] = n("FaceCDMApplyPeople", model=model, **given)
    for slot, side in enumerate(("left", "right"), 1):
        masked = {"conditioning": f"@in:{side} prompt", "mask": f"@regions:{slot}", "set_cond_area": "mask bounds"}
        nodes[f"{side} prompt"] = n("ConditioningSetMask", **masked)
    nodes["both"] = n("ConditioningCombine", conditioning_1="@left prompt", conditioning_2="@right prompt")
    return Blueprint(
        f"Two people ({title})",
        f"Shows two people, each in a half of the image and with a prompt: {title}.",
        nodes,
        {
            "model": "MODEL",
            "left photo": "IMAGE",
            "right photo": "IMAGE",
            "left prompt": "CONDITIONING",
            "right prompt": "CONDITIONING",
        },
        {"model": "@apply", "positive": "@both"},
        of_regions() | of_apply("face_strength"),
    )


TRAIN = Blueprint(
    "Train on my photos",
    "Trains an adapter and a LoRA on photos of one person, and saves both.",
    {
        **published.pack("buffalo_l"),
        "data": n(
            "FaceCDMPrepareDataSet",
            model="@in:model",
            clip="@in:clip",
            vae="@in:vae",
            analyzer="@analyzer",
            clip_vision="@in:clip_vision",
            images="@in:photos",
            identities="one person",
        ),
        "new": n("FaceCDMNewAdapter", model="@in:model", clip_vision="@in:clip_vision"),
        "train": n(
            "FaceCDMTrain",
            model="@in:model",
            adapter="@new",
            data_set="@data",
            vae="@in:vae",
            face_analyzer="@analyzer",
            settings="@in:settings",
            held_out=0.15,  # two of fifteen photos of one person; the default holds out none
        ),
        "save": n("FaceCDMSaveAdapter", adapter="@train"),
        "save_lora": n("SaveLoRA", lora="@train:1", prefix="loras/FaceCDM"),
    },
    {
        "model": "MODEL",
        "clip": "CLIP",
        "vae": "VAE",
        "clip_vision": "CLIP_VISION",
        "photos": "IMAGE",
        "settings": "FACECDM_STAGE_SETTINGS",
    },
    {"adapter": "@train", "lora": "@train:1", "loss_plot": "@train:3", "report": "@train:5"},
    {
        "folder": ("data", "folder"),
        "data set": ("data", "name"),
        "run": ("train", "run"),
        "preset": ("train", "preset"),
        "length": ("train", "length"),
        "adapter name": ("save", "name"),
    },
)
BLUEPRINTS = (
    person("SDXL FaceID PlusV2", "buffalo_l", PLUS_V2.format("sdxl"), VIT_H),
    instantid(),
    person("SDXL PuLID", "antelopev2", "pulid/ip-adapter_pulid_sdxl_fp16.safetensors", EVA),
    person("FLUX.1 PuLID", "antelopev2", "pulid/pulid_flux_v0.9.1.safetensors", EVA, face_strength=1.0, start_at=0.2),
    infiniteyou(),
    ip_adapter(),
    withanyone(),
    person("SD1.5 FaceID PlusV2", "buffalo_l", PLUS_V2.format("sd15"), VIT_H),
    DEMO,
    two_people("SDXL FaceID PlusV2", PEOPLE_SDXL, "@in:model", size=1024, softness=0.1),
    two_people("demo model", PEOPLE_DEMO, "@adapter", size=SIDE, softness=0.2),
    TRAIN,
)


def main(address: str) -> None:
    with urllib.request.urlopen(f"http://{address}/object_info") as answer:  # noqa: S310 - the user's own server
        info = json.load(answer)
    FOLDER.mkdir(exist_ok=True)
    for blueprint in BLUEPRINTS:
        (FOLDER / f"{blueprint.name}.json").write_text(text(blueprint, info), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1].removeprefix("http://").rstrip("/"))
