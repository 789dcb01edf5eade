"""The initial adapter of each design. All are as large as the triplet, except the one without a bottleneck."""

from dataclasses import replace

import torch

from facecdm.adapter.location_head import LocationHead
from facecdm.adapter.model import TripletAdapter
from facecdm.training.config import Sizes
from facecdm.training.initialise import new_adapter, random_adapter
from facecdm.training.location import with_location_head
from facecdm.training.lora import Lora

from .arms import Design

SPARED = (".restore.", "location_head.")  # weights that serve the bottleneck's loss, or that all arms share


def initialise(
    design: Design, denoiser, data, sizes: Sizes, lora_rank: int, seed: int, head: LocationHead | None = None
) -> TripletAdapter:
    """A new adapter; the seed decides every weight. `head` finds faces, for designs with spatial tokens."""
    shape = _shape(design, denoiser, data, sizes, lora_rank)
    if design.mlp_tokens:
        return _mlp_adapter(denoiser, data, shape, seed)
    positions = design.spatial_tokens and sizes.spatial_tokens
    adapter = new_adapter(denoiser, data, seed=seed, positions=positions, **shape)
    with torch.no_grad():
        for stream in adapter.streams.values():
            stream.kappa.fill_(design.kappa)
    finds = design.location and head is not None and adapter.config.spatial_tokens
    return with_location_head(adapter, head) if finds else adapter


def _shape(design: Design, denoiser, data, sizes: Sizes, lora_rank: int) -> dict:
    """The adapter's sizes; the width of its code makes it as large as the triplet, with LoRAs."""
    given = sizes.given()
    shape = given | {
        "interplay": design.interplay and sizes.interplay,
        "router": design.router or sizes.router,
    }
    if not design.image:
        shape["image_width"] = 0
    if design.mlp_tokens:
        shape |= {"face_tokens": design.mlp_tokens, "face_content": 0, "knots": 1}
    if design.whole_code:
        width = data.features([0], vision=False)[0].shape[-1]
        both_signs = 1 if given.get("face_content") else 2  # before a GELU, features come in pairs of opposite sign
        return shape | {"face_rank": both_signs * width}

    def weights(design: Design, shape: dict) -> int:
        return _weights(design, denoiser, data, shape, lora_rank)

    wanted = weights(Design(), given)
    few, more = (weights(design, shape | {"face_rank": rank}) for rank in (4, 5))
    return shape | {"face_rank": max(4 + round((wanted - few) / (more - few)), 4)}


def planned_weights(design: Design, denoiser, data, sizes: Sizes, lora_rank: int) -> int:
    """The weights of a design's adapter and LoRAs, before it is made."""
    return _weights(design, denoiser, data, _shape(design, denoiser, data, sizes, lora_rank), lora_rank)


def _weights(design: Design, denoiser, data, shape: dict, lora_rank: int) -> int:
    return count_weights(_empty(denoiser, data, shape)) + _lora_weights(design, denoiser, lora_rank)


def _empty(denoiser, data, shape: dict) -> TripletAdapter:
    """An adapter without contents, to count its weights."""
    config = random_adapter(denoiser, data, **{**shape, "face_rank": 4}).config
    with torch.device("meta"):
        return TripletAdapter(replace(config, face_rank=shape["face_rank"]))


def _lora_weights(design: Design, denoiser, rank: int) -> int:
    layers = denoiser.control_layers() if design.face_control else denoiser.layers()
    return lora_weights(Lora.new(layers, rank)) if rank else 0


def _mlp_adapter(denoiser, data, shape: dict, seed: int) -> TripletAdapter:
    """A design with an MLP and constant gates, which fold into V. It is initialised as a no-op like ours, so that a
    short training is not spent on repairing the base; the embedding is centred like ours."""
    adapter = random_adapter(denoiser, data, seed=seed, **shape)
    with torch.no_grad():
        adapter.face_projector.mean.copy_(data.mean_face)
    return adapter.requires_grad_(False)


def count_weights(adapter: TripletAdapter) -> int:
    """The number of weights that affect images and differ between arms."""
    return sum(value.numel() for name, value in adapter.named_parameters() if not any(part in name for part in SPARED))


def lora_weights(*loras: Lora) -> int:
    return sum(value.numel() for lora in loras for part in lora.parts.values() for value in (part.up, part.down))
