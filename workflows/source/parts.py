"""Nodes, groups and plans, and what several workflows share.

A value "@name" or "@name:1" links to an output of another node. Inputs that are not named keep their default.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain

from facecdm.models.catalogue import by_choice, of_pack
from facecdm.models.model_file import ModelFile

PHOTO, MODEL, PROMPT, PERSON, PICTURE = "#3f789e", "#8A8", "#A88", "#88A", "#b58b2a"


@dataclass(frozen=True)
class Node:
    kind: str
    title: str | None
    inputs: dict


@dataclass(frozen=True)
class Group:
    """`columns`: node names from left to right, each column from top to bottom."""

    title: str
    colour: str
    columns: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Plan:
    """A workflow.

    name    of its API file, and on the command line
    title   of its template: file name, in ASCII
    note    Markdown, shown beside the graph
    nodes   by a name that links use
    groups  stacks from left to right
    runs    whether it needs nothing but the pack
    """

    name: str
    title: str
    note: str
    nodes: dict[str, Node]
    groups: tuple[tuple[Group, ...], ...]
    runs: bool = True

    @property
    def models(self) -> list[ModelFile]:
        """The model files that its widgets name, and the detector's pack of a pack that has none."""
        values = [value for node in self.nodes.values() for value in node.inputs.values() if isinstance(value, str)]
        files = ((file,) if (file := by_choice(value)) else of_pack(value) for value in values)
        return list(dict.fromkeys(chain.from_iterable(files)))

    @property
    def full_note(self) -> str:
        """The note, and what to download where the pack does not have everything."""
        if self.runs:
            return self.note
        lines = [f"- {file.note}" for file in self.models]
        get = f"All of them with one command, in the pack's folder: `python -m facecdm get {self.name}`"
        return "\n".join([self.note, "", "It needs:", "", *lines, "", get])

    def api(self) -> dict:
        """API JSON, without the inputs that keep their defaults."""
        ids = {name: str(number) for number, name in enumerate(self.nodes, 1)}

        def value(given):
            if not (isinstance(given, str) and given.startswith("@")):
                return given
            name, _, slot = given[1:].partition(":")
            return [ids[name], int(slot or 0)]

        return {
            ids[name]: {
                "class_type": node.kind,
                "_meta": {"title": node.title} if node.title else {},
                "inputs": {key: value(given) for key, given in node.inputs.items()},
            }
            for name, node in self.nodes.items()
        }


def n(kind: str, title: str | None = None, **inputs) -> Node:
    return Node(kind, title, inputs)


def downloads(values: Iterable) -> dict[str, list[dict]]:
    """A node's properties for its widgets' values: model files that ComfyUI's frontend then offers to download."""
    files = [file for value in values if isinstance(value, str) and (file := by_choice(value)) and file.in_browser]
    found = [{"name": file.choice, "url": file.url, "directory": file.folder} for file in files]
    return {"models": found} if found else {}


def prompts(positive: str, negative: str, clip: str) -> dict[str, Node]:
    return {
        "prompt": n("CLIPTextEncode", "Prompt", text=positive, clip=clip),
        "negative": n("CLIPTextEncode", "Negative prompt", text=negative, clip=clip),
    }


def sampling(
    model: str, *, positive="@prompt", negative="@negative", latent="@size", vae: str, prefix: str, **settings
) -> dict[str, Node]:
    given = {"model": model, "positive": positive, "negative": negative, "latent_image": latent}
    return {
        "sampler": n("KSampler", **given, **settings),
        "decode": n("VAEDecode", samples="@sampler", vae=vae),
        "save": n("SaveImage", filename_prefix=f"FaceCDM/{prefix}", images="@decode"),
    }


def pose_of(image: str) -> dict[str, Node]:
    return {"pose": n("FaceCDMExtractPose", image=image, analyzer="@analyzer")}


def photo_of(
    name: str = "photo", title: str = "Reference", file: str = "faceworld.webp", faces: str = "faces", **settings
) -> dict[str, Node]:
    return {
        name: n("LoadImage", title, image=file),
        faces: n("FaceCDMDetectFaces", analyzer="@analyzer", image=f"@{name}", no_face="skip", **settings),
    }


PHOTO_GROUP = Group("Your photo", PHOTO, (("photo", "analyzer"), ("faces",)))
MODEL_GROUP = Group("Model and adapter", MODEL, (("base",), ("adapter",)))
MODEL_WIDE = Group("Model and adapter", MODEL, (("analyzer",), ("base",), ("adapter",)))
LOCATION_GROUP = Group("Face location", PHOTO, (("pose",),))
PERSON_GROUP = Group("The person", PERSON, (("apply",),))
PROMPT_GROUP = Group("Your prompt", PROMPT, (("prompt", "negative", "size"),))
PICTURE_GROUP = Group("The picture", PICTURE, (("sampler", "decode", "save"),))
PICTURE_WIDE = Group("The picture", PICTURE, (("sampler",), ("decode", "save")))
