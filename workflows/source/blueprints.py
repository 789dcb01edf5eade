"""Write subgraphs/*.json: several nodes as one, offered by ComfyUI's node library (0.33 and later).

    python -m workflows.source.blueprints ADDRESS

ADDRESS is that of a running ComfyUI with this pack, which is asked for the nodes' inputs and outputs.
"""

import json
import sys
import urllib.request
import uuid
from dataclasses import dataclass
from pathlib import Path

from facecdm.models.catalogue import EVA, SIGLIP, SIGLIP_SO400M, VIT_H

from . import published
from .demo import FRAMED, SIDE
from .flux import BOXES
from .parts import Node, downloads, n

FOLDER = Path(__file__).resolve().parents[2] / "subgraphs"
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
INSIDE, OUTSIDE = -10, -20  # ids of a subgraph's input and output nodes
COLUMN, ROW = 360, 640


@dataclass(frozen=True)
class Blueprint:
    """A subgraph. Links are as in parts.py; "@in:NAME" is an input of the subgraph.

    inputs   name and type of each
    outputs  name and link of each
    widgets  name on the one node, and (node, widget) inside
    """

    name: str
    description: str
    nodes: dict[str, Node]
    inputs: dict[str, str]
    outputs: dict[str, str]
    widgets: dict[str, tuple[str, str]]


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
        "control": n(
            "FaceCDMApplyControlNet",
            positive="@in:positive",
            negative="@in:negative",
            control_net="@net",
            image="@pose",
            adapter="@adapter",
            faces="@faces",
        ),
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
            "control": n(
                "FaceCDMApplyControlNet",
                positive="@in:positive",
                negative="@in:negative",
                control_net="@net",
                image="@pose",
                adapter="@adapter",
                faces="@faces",
                vae="@in:vae",
                strength=1.0,
            ),
        },
        {"photo": "IMAGE", "positive": "CONDITIONING", "negative": "CONDITIONING", "vae": "VAE"},
        {"positive": "@control", "negative": "@control:1"},
        {"strength": ("control", "strength")},
    )


def ip_adapter() -> Blueprint:
    """Model and picture in, model out."""
    return Blueprint(
        "Style of a picture (FLUX.1 IP-Adapter)",
        "Gives an image the content and style of a picture: InstantX' IP-Adapter for FLUX.1.",
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


def definition(blueprint: Blueprint, info: dict[str, dict]) -> dict:
    """The JSON of a blueprint. `info` is the server's /object_info."""
    ids = {name: number for number, name in enumerate(blueprint.nodes, 1)}
    given = [*blueprint.inputs, *blueprint.widgets]
    links: list[dict] = []

    def link(source: str, target: int, slot: int, kind: str) -> int:
        name, _, rest = source[1:].partition(":")
        origin = (INSIDE, given.index(rest)) if name == "in" else (ids[name], int(rest or 0))
        links.append(dict(id=len(links) + 1, origin_id=origin[0], origin_slot=origin[1]))
        links[-1] |= {"target_id": target, "target_slot": slot, "type": kind}
        return len(links)

    nodes = []
    for name, node in blueprint.nodes.items():
        shown = {widget: outer for outer, (inner, widget) in blueprint.widgets.items() if inner == name}
        nodes.append(_node(ids[name], node, info[node.kind], link, shown))
    widgets = {
        name: _widget(blueprint.nodes[inner], widget, info) for name, (inner, widget) in blueprint.widgets.items()
    }
    entries = blueprint.inputs | {name: kind for name, (kind, _) in widgets.items()}
    kinds = {}
    for name, source in blueprint.outputs.items():
        node, _, slot = source[1:].partition(":")
        kinds[name] = info[blueprint.nodes[node].kind]["output"][int(slot or 0)]
    for slot, (name, source) in enumerate(blueprint.outputs.items()):
        link(source, OUTSIDE, slot, kinds[name])
    for node in nodes:
        for slot, output in enumerate(node["outputs"]):
            output["links"] = _ids(links, origin_id=node["id"], origin_slot=slot)
    key = _uuid(blueprint.name)
    subgraph = {
        "id": key,
        "version": 1,
        "state": {"lastGroupId": 0, "lastNodeId": len(nodes), "lastLinkId": len(links), "lastRerouteId": 0},
        "revision": 0,
        "config": {},
        "name": blueprint.name,
        "inputNode": {"id": INSIDE, "bounding": [-200, 0, 128, 128]},
        "outputNode": {"id": OUTSIDE, "bounding": [COLUMN * len(nodes), 0, 128, 128]},
        "inputs": [
            _end(blueprint.name, name, kind, _ids(links, origin_id=INSIDE, origin_slot=slot), "in")
            for slot, (name, kind) in enumerate(entries.items())
        ],
        "outputs": [
            _end(blueprint.name, name, kinds[name], _ids(links, target_id=OUTSIDE, target_slot=slot), "out")
            for slot, name in enumerate(blueprint.outputs)
        ],
        "widgets": [],
        "nodes": nodes,
        "groups": [],
        "links": links,
        "extra": {},
        "category": "FaceCDM",
        "description": blueprint.description,
    }
    outer = {
        "id": 1,
        "type": key,
        "pos": [0, 0],
        "size": [300, 160],
        "flags": {},
        "order": 0,
        "mode": 0,
        "inputs": [
            {"name": name, "type": kind, "link": None} | ({"widget": {"name": name}} if name in widgets else {})
            for name, kind in entries.items()
        ],
        "outputs": [{"name": name, "type": kinds[name], "links": []} for name in blueprint.outputs],
        "title": blueprint.name,
        "properties": {"proxyWidgets": [["-1", name] for name in widgets]},
        "widgets_values": [value for _, value in widgets.values()],
    }
    return {
        "id": _uuid(f"{blueprint.name}/file"),
        "revision": 0,
        "last_node_id": 1,
        "last_link_id": 0,
        "nodes": [outer],
        "links": [],
        "groups": [],
        "definitions": {"subgraphs": [subgraph]},
        "config": {},
        "extra": {},
        "version": 0.4,
    }


def _entries(info: dict) -> dict[str, tuple[str, list, bool]]:
    """Type, declaration and "optional?" of a node's inputs."""
    return {
        name: (("COMBO" if isinstance(spec[0], list) else spec[0]), spec, part == "optional")
        for part in ("required", "optional")
        for name, spec in info["input"].get(part, {}).items()
    }


def _widget(node: Node, name: str, info: dict) -> tuple[str, object]:
    """Type and value of a widget."""
    kind, spec, _ = _entries(info[node.kind])[name]
    return kind, _value(node, name, spec)


def _node(number: int, node: Node, info: dict, link, shown: dict[str, str]) -> dict:
    """A node of a subgraph: sockets first, then widgets; `shown` widgets are inputs of the subgraph, by these names.

    Raises KeyError for an input that the node does not have.
    """
    entries = _entries(info)
    if unknown := set(node.inputs) - set(entries):
        raise KeyError(f"{node.kind} has no {', '.join(sorted(unknown))}")
    ordered = sorted(entries, key=lambda name: entries[name][0] in WIDGETS)
    inputs, values = [], []
    for slot, name in enumerate(ordered):
        kind, spec, optional = entries[name]
        entry = {"name": name, "type": kind, "link": None} | ({"shape": 7} if optional else {})
        if kind in WIDGETS:
            entry["widget"] = {"name": name}
            if name in shown:
                entry["link"] = link(f"@in:{shown[name]}", number, slot, kind)
            values.append(_value(node, name, spec))
            if len(spec) > 1 and spec[1].get("control_after_generate", name == "seed"):
                values.append("fixed")  # of the widget that the frontend adds
        elif name in node.inputs:
            entry["link"] = link(node.inputs[name], number, slot, kind)
        inputs.append(entry)
    outputs = [{"name": name, "type": kind} for name, kind in zip(info["output_name"], info["output"])]
    return {
        "id": number,
        "type": node.kind,
        "pos": [COLUMN * (number - 1), 0],
        "size": [300, ROW],
        "flags": {},
        "order": number - 1,
        "mode": 0,
        "inputs": inputs,
        "outputs": outputs,
        "properties": {"Node name for S&R": node.kind} | downloads(values),
        "widgets_values": values,
    }


def _value(node: Node, name: str, spec: list):
    if name in node.inputs:
        return node.inputs[name]
    declared = spec[1] if len(spec) > 1 else {}
    options = spec[0] if isinstance(spec[0], list) else declared.get("options", (0,))
    return declared.get("default", options[0])


def _ids(links: list[dict], **ends: int) -> list[int]:
    return [link["id"] for link in links if all(link[key] == value for key, value in ends.items())]


def _end(blueprint: str, name: str, kind: str, links: list[int], side: str) -> dict:
    return {"id": _uuid(f"{blueprint}/{side}/{name}"), "name": name, "type": kind, "linkIds": links}


def _uuid(name: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"facecdm/subgraphs/{name}"))


def text(blueprint: Blueprint, info: dict[str, dict]) -> str:
    return json.dumps(definition(blueprint, info), indent=2, ensure_ascii=False) + "\n"


def main(address: str) -> None:
    with urllib.request.urlopen(f"{address}/object_info") as answer:  # noqa: S310 - the user's own server
        info = json.load(answer)
    FOLDER.mkdir(exist_ok=True)
    for blueprint in BLUEPRINTS:
        (FOLDER / f"{blueprint.name}.json").write_text(text(blueprint, info), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1].rstrip("/"))
