"""What an API client can write into an input of a node, and a graph in which every node of the pack runs."""

import json
import math
from dataclasses import dataclass

REFUSED, EITHER = "refused", "either"
MEGABYTE = "x" * 2**20
BEYOND = '"beyond a float"'  # in JSON; becomes 1e309
NUMBERS = (
    math.nan,
    math.inf,
    -math.inf,
    BEYOND[1:-1],
    10**9,
    -(10**9),
    10**400,
    7,
    0.5,
    "7",
    "nan",
    "",
    "x",
    "9" * 400,
)
NAMES = ("", "../x", "..\\x", "/etc/passwd", "C:\\x", "a\0b", "a\nb", "CON", ".", " ", "\ud800", "é" * 300)
OTHERS = (MEGABYTE, None, True, False, [], [1], [[1, 2]], {}, {"a": 1}, {"__value__": [1, 2]}, {"__value__": None})
VALUES = {
    "INT": (*NUMBERS, *OTHERS),
    "FLOAT": (*NUMBERS, *OTHERS),
    "STRING": (*NAMES, "x", "7", "nan, inf, 1e309", "-1 0 1e9 nan", math.nan, math.inf, 10**400, *OTHERS),
    "COMBO": (*NAMES, "no such choice", math.nan, math.inf, 7, 10**400, *OTHERS),
    "BOOLEAN": (math.nan, math.inf, 7, 10**400, "x", "", *OTHERS),
}
SOCKET = (
    *("x", 7, math.nan, True, None, [], {}, {"a": 1}, {"x.alpha": 1}, {"steps": "x"}, {"rank": math.nan}),
    *({"__value__": value} for value in ([1, 2], [[1, {}]], [{"people": 7}], {"learning_rate": [1]})),
)


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def link(name: str, output: int = 0) -> list:
    return [name, output]


DEMO_TOWER = link("demo", 3)
# A node for each socket type.
SOURCES = {
    "MODEL": link("demo"),
    "CLIP": link("demo", 1),
    "VAE": link("demo", 2),
    "CLIP_VISION": DEMO_TOWER,
    "IMAGE": link("picture"),
    "MASK": link("picture", 1),
    "FACE_ANALYZER": link("analyzer"),
    "FACES": link("faces"),
    "POSE_KEYPOINT": link("pose", 1),
    "CONDITIONING": link("prompt"),
    "FACECDM_ADAPTER": link("adapter"),
    "CONTROL_NET": link("control"),
    "FACECDM_OPTIONS": link("options"),
    "FACECDM_DATA_SET": link("data"),
    "FACECDM_STAGE_SETTINGS": link("settings"),
}
SMALL = {"face_tokens": 2, "image_tokens": 2, "face_rank": 8, "clip_vision": DEMO_TOWER}
# Inputs beside the defaults, by node: what makes it quick, optional links, and files (see `Graphs`).
GIVEN = {
    "FaceCDMLoadFaceAnalyzer": {"pack": "buffalo_s", "provider": "CPU"},
    "FaceCDMDetectFaces": {"search_harder": False},
    "FaceCDMExtractPose": {"analyzer": link("analyzer")},
    "FaceCDMNewAdapter": SMALL,
    "FaceCDMApply": {"faces": link("faces"), "clip_vision": DEMO_TOWER, "image": link("picture")},
    "FaceCDMApplyPeople": {"faces_1": link("faces"), "clip_vision": DEMO_TOWER, "image_1": link("picture")},
    "FaceCDMApplyControlLora": {"file": "written.safetensors"},
    "FaceCDMLoadAdapter": {"name": "written.safetensors"},
    "FaceCDMLoadFaces": {"file": "written.safetensors"},
    "FaceCDMDetailFaces": {"steps": 1, "guide_size": 64, "analyzer": link("analyzer")},
    "FaceCDMPrepareDataSet": {"folder": "(the images input)", "images": link("picture"), "augmented": 0},
    "FaceCDMStageSettings": {"steps": 1, "train": "projectors", "identity": 0, "alignment": 0, "localisation": 0},
    "FaceCDMTrainStage": {"settings": link("settings"), "stage": "1 broad", "steps": 1},
    "FaceCDMTrain": {"settings": link("settings"), "length": 0.0001},
}
COMMON = {
    "analyzer": "FaceCDMLoadFaceAnalyzer",
    "faces": "FaceCDMDetectFaces",
    "pose": "FaceCDMExtractPose",
    "adapter": "FaceCDMNewAdapter",
    "control": "FaceCDMLoadDemoPose",
    "options": "FaceCDMApplyOptions",
    "settings": "FaceCDMStageSettings",
    "data": "FaceCDMPrepareDataSet",
}


@dataclass(frozen=True, eq=False)
class Case:
    """A value for an input of a node. `kind`: COMBO, INT …, or a socket's type; `expected`: what the node must do."""

    node: str
    input: str
    kind: str
    value: object
    expected: str

    def __str__(self) -> str:
        return f"{self.node}.{self.input} = {str(self.value)[:30]!r}"


@dataclass(frozen=True)
class Graphs:
    """Graphs of the pack's nodes; `offered` is the server's /object_info, `picture` a file in its input folder."""

    offered: dict
    picture: str

    def own(self, kind: str, **changed) -> dict:
        """The node with its defaults, its sockets linked, and `changed`."""
        inputs = {}
        for name, (type_, options, required) in self.inputs(kind).items():
            if "default" in options:
                inputs[name] = options["default"]
            elif type_ == "COMBO":
                inputs[name] = options["options"][0]
            elif required:
                inputs[name] = SOURCES[type_]
        return node(kind, **inputs | GIVEN.get(kind, {}) | changed)

    def inputs(self, kind: str) -> dict[str, tuple[str, dict, bool]]:
        """Input → (type, options, whether it is required)."""
        parts = self.offered[kind]["input"]
        return {
            name: (type_, more[0] if more else {}, part == "required")
            for part in ("required", "optional")
            for name, (type_, *more) in parts.get(part, {}).items()
        }

    def graph(self, kind: str, **changed) -> tuple[dict, str]:
        """(a graph that runs the node "tested", the node whose result is asked for). The other nodes are the same in
        every graph, so that the server keeps their results."""
        nodes = {
            "demo": node("FaceCDMLoadDemoModel"),
            "picture": node("LoadImage", image=self.picture),
            "prompt": node("CLIPTextEncode", clip=link("demo", 1), text="a man"),
            **{name: self.own(common) for name, common in COMMON.items()},
            "tested": self.own(kind, **changed),
        }
        if self.offered[kind]["output_node"]:
            return nodes, "tested"
        return nodes | {"shown": node("PreviewAny", source=link("tested"))}, "shown"

    def cases(self, kind: str) -> list[Case]:
        """Every value for every input of the node."""
        return [
            Case(kind, name, type_, value, expected(type_, options, required, value))
            for name, (type_, options, required) in self.inputs(kind).items()
            for value in VALUES.get(type_, SOCKET)
        ]


def expected(kind: str, options: dict, required: bool, value) -> str:
    """Whether the value must be refused. A node may refuse others with a reason. The server makes a text or a switch
    of anything but a list, and a number of texts such as "7"."""
    if isinstance(value, list):
        return REFUSED
    if isinstance(value, dict) and "__value__" in value:  # ComfyUI's way to write a list
        value = value["__value__"]
    if kind in ("STRING", "BOOLEAN"):
        return EITHER
    if kind == "COMBO":
        return EITHER if value in options["options"] else REFUSED
    if kind in ("INT", "FLOAT"):
        return EITHER if _in_range(kind, options, value) else REFUSED
    written = isinstance(value, dict | list) and (kind == "POSE_KEYPOINT" or "SETTINGS" in kind or not value)
    return EITHER if written or value is None and not required else REFUSED


def _in_range(kind: str, options: dict, value) -> bool:
    try:
        number = math.inf if value == BEYOND[1:-1] else int(value) if kind == "INT" else float(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return options.get("min", -math.inf) <= number <= options.get("max", math.inf)


def as_json(content) -> str:
    """JSON as a client can write it: with NaN, Infinity, 1e309 and lone surrogates."""
    return json.dumps(content).replace(BEYOND, "1e309")
