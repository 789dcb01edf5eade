"""Which family a file belongs to, for which base, and how we know."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..bases import BASES, name_of
from ..bases.layers import LayerMap
from ..errors import BadFile, FaceCDMError, UnsupportedModel
from .families import FAMILIES, POOLED, RULES, Encoder, Family, encoder_for
from .pulid import VISION_WIDTH as PULID_VISION_WIDTH
from .read import Published

AUTO = "auto"
FORMAT_KEY = "facecdm.family"  # in the metadata of files that we write


@dataclass(frozen=True)
class Recognised:
    """A file's family and base, `why` we say so, and what it needs.

    `path` of the file; `tokens` a reference; `vision_width` features of the vision tower and `face_width` of the
    recogniser, 0 where it asks none; `lora` is the rank of the LoRA inside, 0 without one.
    """

    family: Family
    layer_map: LayerMap
    why: str
    tokens: int
    vision_width: int
    face_width: int
    lora: int
    path: Path

    @property
    def encoder(self) -> Encoder | None:
        """The vision tower that it looks with, where that is a known one."""
        return encoder_for(self.family.vision, self.vision_width) if self.vision_width else None

    def report(self) -> str:
        family = self.family
        lines = [
            f"{family.name} for {name_of(self.layer_map)}, recognised by {self.why}",
            f"{family.stream}: {family.reads} → {self.tokens} tokens",
        ]
        if self.vision_width:
            told = f"{self.encoder.name}, {self.encoder.file}" if self.encoder else "a tower that we do not know"
            lines.append(f"CLIP vision: {told} ({self.vision_width} features, {family.vision})")
        if self.lora:
            lines.append(f"LoRA inside: rank {self.lora}, applied with its own strength; no second file is needed")
        lines.append(f"begin with {family.stream}_strength {family.begin:g}")
        if family.note:
            lines.append(family.note)
        return "\n".join(lines)


def recognise(published: Published, choice: str = AUTO) -> Recognised:
    """Content first; where that leaves several families, `choice`, else the metadata, else the file's name.

    Raises BadFile (no family has such a projector), FaceCDMError (the choice cannot be), UnsupportedModel (Kolors
    FaceID, an unknown U-Net).
    """
    state = published.image_proj
    options = _candidates(published)
    layer_map = _layer_map(published)
    family, why = _choose(published, options, layer_map, choice)
    return Recognised(
        family,
        layer_map,
        why,
        _tokens(state),
        _vision_width(state, family),
        _face_width(state, family),
        _lora_rank(published.ip_adapter),
        published.path,
    )


def _candidates(published: Published) -> tuple[str, ...]:
    state = published.image_proj
    kolors = state.get("perceiver_resampler.layers.0.0.to_out.weight")
    if kolors is not None and len(kolors) == 4096:
        raise UnsupportedModel(
            f"{published.path.name} is FaceID Plus for Kolors. Its tokens pass through the text projection of Kolors' "
            "own U-Net, which core ComfyUI does not load; use an adapter for SDXL (ip-adapter-faceid-plusv2_sdxl.bin)."
        )
    for shapes, also, families in RULES:
        if all(_fits(state.get(key), shape) for key, shape in shapes.items()) and also(state):
            return families
    keys = ", ".join(sorted(state)[:4])
    raise BadFile(f"{published.path} has a projector that no family known to FaceCDM has (image_proj: {keys} …).")


def _fits(tensor: Tensor | None, shape: tuple) -> bool:
    return (
        tensor is not None
        and tensor.ndim == len(shape)
        and all(want is None or want == have for want, have in zip(shape, tensor.shape))
    )


def _choose(published: Published, options: tuple[str, ...], layer_map: LayerMap, choice: str) -> tuple[Family, str]:
    if choice != AUTO:
        if choice not in options:
            fits = " or ".join(FAMILIES[key].name for key in options)
            raise FaceCDMError(f"family is {choice!r}, but {published.path.name} holds {fits}: set family to {AUTO}")
        return FAMILIES[choice], "your choice"
    if len(options) == 1:
        return FAMILIES[options[0]], "its content"
    told = published.metadata.get(FORMAT_KEY, "")
    if told in options:
        return FAMILIES[told], "its metadata"
    if "faceid-plusv2" in options and name_of(layer_map) == "SDXL":
        return FAMILIES["faceid-plusv2"], "its content (there is no FaceID Plus for SDXL)"
    path = published.path
    for said, where in (
        (json.dumps(published.metadata), "metadata"),
        (path.name, "name"),
        (path.parent.name, "folder's name"),
    ):
        said = "-".join(["", *re.findall("[a-z0-9]+", said.lower()), ""])
        for key in (*options[1:], options[0]):
            word = next((word for word in FAMILIES[key].words if f"-{word}-" in said), "")
            if word:
                return FAMILIES[key], "its metadata" if where == "metadata" else f"{word!r} in its {where}"
    others = " or ".join(FAMILIES[key].name for key in options[1:])
    return FAMILIES[options[0]], f"its content; it may be {others}, too: if so, choose that as family"


def _layer_map(published: Published) -> LayerMap:
    """The base whose cross-attention has these widths."""
    numbers = sorted(int(key.split(".")[0]) for key in published.ip_adapter if key.endswith(".to_k_ip.weight"))
    keys = [published.ip_adapter[f"{number}.to_k_ip.weight"] for number in numbers]
    if any(f"{number}.to_v_ip.weight" not in published.ip_adapter for number in numbers):
        raise BadFile(f"{published.path} has keys without values (to_k_ip without to_v_ip): get the file again.")
    widths, context = [len(key) for key in keys], keys[0].shape[1]
    for base in BASES.values():
        if base.text_width == context and [layer.width for layer in base.layer_map.layers] == widths:
            return base.layer_map
    raise UnsupportedModel(
        f"{published.path.name} was made for a U-Net of {len(keys)} cross-attention layers and text "
        f"width {context}; FaceCDM knows {', '.join(BASES)}."
    )


def _tokens(state: dict[str, Tensor]) -> int:
    if "latents" in state:
        return state["latents"].shape[1]
    if "proj.3.weight" in state:
        return 257
    if "body.6.weight" in state:
        return 2 * 5
    last = state["proj.weight"] if "proj.weight" in state else state["proj.2.weight"]
    return len(last) // len(state["norm.weight"])


def _vision_width(state: dict[str, Tensor], family: Family) -> int:
    if not family.picture:
        return 0
    keys = (
        ("proj.weight",)
        if family.vision == POOLED
        else ("perceiver_resampler.proj_in.weight", "proj_in.weight", "proj.0.weight", "mapping_0.0.weight")
    )
    return next(state[key].shape[1] for key in keys if key in state)


def _face_width(state: dict[str, Tensor], family: Family) -> int:
    if not family.embedding:
        return 0
    for key in ("body.0.weight", "id_embedding_mapping.0.weight"):
        if key in state:
            return state[key].shape[1] - PULID_VISION_WIDTH
    return next(state[key].shape[1] for key in ("proj_in.weight", "proj.0.weight") if key in state)


def _lora_rank(ip_adapter: dict[str, Tensor]) -> int:
    down = next((value for key, value in ip_adapter.items() if key.endswith("to_q_lora.down.weight")), None)
    return 0 if down is None or not _used(ip_adapter) else len(down)


def _used(ip_adapter: dict[str, Tensor]) -> bool:
    """Whether the LoRA does anything: our exports carry one of zeros, which says FaceID to other programs."""
    return any(value.any() for key, value in ip_adapter.items() if key.endswith("_lora.up.weight"))
