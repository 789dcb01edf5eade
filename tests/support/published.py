"""Made-up files of the published families: the keys and shapes of the real ones, random values.

The shapes are those of weight-formats.md, not of the code under test.
"""

from dataclasses import dataclass

import torch

STATES = 1280  # features of ViT-H's hidden states
EVA_STATES = 1024  # of EVA02-CLIP-L's
LARGE_STATES = 1024  # of ViT-L's, whatever the base


@dataclass(frozen=True)
class Sizes:
    """Sizes of a base model and of the resamplers for it; small bases have small ones."""

    context: int
    plus: int  # width of Plus' resampler
    plus_heads: int
    face_heads: int  # of FaceID Plus' perceiver, whose width is the context's
    states: int = STATES
    pooled: int = 1024


SD15 = Sizes(768, 768, 12, 12)
SDXL = Sizes(2048, 1280, 20, 32)
SMALL = Sizes(96, 64, 2, 2, states=48, pooled=40)
SMALL_XL = Sizes(128, 64, 1, 2, states=48, pooled=40)


def _mlp(names: list[tuple[str, tuple[int, ...]]]) -> dict:
    shapes = {}
    for name, shape in names:
        shapes[f"{name}.weight"], shapes[f"{name}.bias"] = shape, shape[:1]
    return shapes


def _perceiver(states: int, width: int, heads: int, out: int, depth: int = 4) -> dict:
    shapes = _mlp([("proj_in", (width, states)), ("proj_out", (out, width)), ("norm_out", (out,))])
    for i in range(depth):
        shapes |= _layer(f"layers.{i}", width, heads)
    return shapes


def _layer(name: str, width: int, heads: int) -> dict:
    inner = heads * 64
    return _mlp([(f"{name}.0.norm1", (width,)), (f"{name}.0.norm2", (width,)), (f"{name}.1.0", (width,))]) | {
        f"{name}.0.to_q.weight": (inner, width),
        f"{name}.0.to_kv.weight": (2 * inner, width),
        f"{name}.0.to_out.weight": (width, inner),
        f"{name}.1.1.weight": (4 * width, width),
        f"{name}.1.3.weight": (width, 4 * width),
    }


def _resampler(states: int, width: int, heads: int, out: int) -> dict:
    return {"latents": (1, 16, width), **_perceiver(states, width, heads, out)}


def _identity(context: int, tokens: int) -> dict:
    return _mlp([("proj.0", (1024, 512)), ("proj.2", (tokens * context, 1024)), ("norm", (context,))])


def _faceid_plus(s: Sizes) -> dict:
    inside = _perceiver(s.states, s.context, s.face_heads, s.context)
    return _identity(s.context, 4) | {f"perceiver_resampler.{key}": shape for key, shape in inside.items()}


def _uniportrait(s: Sizes, count: int = 16, depth: int = 6) -> dict:
    structure = 448 + s.states
    shapes = {"latents": (1, count, s.context)} | _mlp(
        [
            ("proj_id.0", (1024, 512)),
            ("proj_id.2", (s.context, 1024)),
            ("proj_clip.0", (2 * structure, structure)),
            ("proj_clip.2", (s.context, 2 * structure)),
            ("proj_out", (s.context, s.context)),
            ("norm_out", (s.context,)),
        ]
    )
    for i in range(depth):
        attention = {key: shape for key, shape in _layer("", s.context, s.face_heads).items() if key.startswith(".0.")}
        feed = {key: shape for key, shape in _layer("", s.context, s.face_heads).items() if key.startswith(".1.")}
        for number in (0, 1):
            shapes |= {f"layers.{i}.{number}.{key.removeprefix('.0.')}": shape for key, shape in attention.items()}
        shapes |= {f"layers.{i}.2.{key.removeprefix('.1.')}": shape for key, shape in feed.items()}
    return shapes


def facial_encoder(s: Sizes, width: int = 1024, heads: int = 16) -> dict:
    """ConsistentID's FacialEncoder: a resampler with one token, and the module that fuses it with a prompt's word."""
    shapes = {"visual_projection.latents": (1, 1, width)}
    shapes |= {f"visual_projection.{key}": v for key, v in _perceiver(s.states, width, heads, s.context, 8).items()}
    mlps = []
    for name, inside in (("mlp1", 2 * s.context), ("mlp2", s.context)):
        mlps += [
            (f"fuse_module.{name}.layernorm", (inside,)),
            (f"fuse_module.{name}.fc1", (s.context, inside)),
            (f"fuse_module.{name}.fc2", (s.context, s.context)),
        ]
    return shapes | _mlp([*mlps, ("fuse_module.layer_norm", (s.context,))])


def _consistentid(s: Sizes) -> dict:
    inside = facial_encoder(s) if s.states == STATES else facial_encoder(s, 64, 1)
    return _faceid_plus(s) | {f"FacialEncoder.{key}": shape for key, shape in inside.items()}


def _stack(name: str, inside: int, out: int) -> dict:
    return _mlp(
        [
            (f"{name}.0", (1024, inside)),
            (f"{name}.1", (1024,)),
            (f"{name}.3", (1024, 1024)),
            (f"{name}.4", (1024,)),
            (f"{name}.6", (out, 1024)),
        ]
    )


def _pulid(s: Sizes) -> dict:
    shapes = _stack("body", 512 + 768, 5 * s.context)
    for i in range(5):
        for name in (f"mapping_{i}", f"mapping_patch_{i}"):
            shapes |= _stack(name, min(s.states, EVA_STATES), s.context)
    return shapes


def _pulid_v11(s: Sizes, count: int = 32, depth: int = 10) -> dict:
    shapes = {
        "latents": (1, count, s.plus),
        "proj_out": (s.plus, s.context),
        **_stack("id_embedding_mapping", 512 + 768, 5 * s.plus),
    }
    for i in range(depth):
        shapes |= _layer(f"layers.{i}", s.plus, s.plus_heads)
    for i in range(5):
        shapes |= _stack(f"mapping_{i}", min(s.states, EVA_STATES), s.plus)
    return shapes


PROJECTORS = {
    "ip-adapter": lambda s: _mlp([("proj", (4 * s.context, s.pooled)), ("norm", (s.context,))]),
    "ip-adapter-plus": lambda s: _resampler(s.states, s.plus, s.plus_heads, s.context),
    "ip-adapter-full-face": lambda s: _mlp(
        [("proj.0", (s.states, s.states)), ("proj.2", (s.context, s.states)), ("proj.3", (s.context,))]
    ),
    "faceid": lambda s: _identity(s.context, 4),
    "faceid-plus": _faceid_plus,
    "faceid-plusv2": _faceid_plus,
    "faceid-portrait": lambda s: _identity(s.context, 16),
    "faceid-portrait-unnorm": lambda s: _resampler(512, s.plus, s.plus_heads, s.context),
    "instantid": lambda s: _resampler(512, s.plus, s.plus_heads, s.context),
    "consistentid": _consistentid,
    "uniportrait": _uniportrait,
    "pulid": _pulid,
    "pulid-v1.1": _pulid_v11,
    "kolors-plus": lambda s: _resampler(LARGE_STATES, 2048, 12, s.context),
}
WITH_LORA = ("faceid", "faceid-plus", "faceid-plusv2", "consistentid", "uniportrait")


def random_state(shapes: dict, seed: int) -> dict[str, torch.Tensor]:
    """Values that keep tokens at a sensible size: 1/√inputs; norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes.items():
        value = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            state[key] = 0.1 * value + (1 if key.endswith("weight") else 0)
        else:
            state[key] = value * shape[-1] ** -0.5
    return state


def published_state(family: str, layer_map, sizes: Sizes, seed: int = 0, lora_rank: int | None = None) -> dict:
    """{"image_proj": …, "ip_adapter": …} of a family for a base, as its .bin file nests them."""
    layers = {}
    for index, layer in enumerate(layer_map.layers):
        for part in "kv":
            layers[f"{2 * index + 1}.to_{part}_ip.weight"] = (layer.width, layer_map.context)
    rank = lora_rank if lora_rank is not None else 4 if family in WITH_LORA else 0
    for number in range(2 * len(layer_map.layers) if rank else 0):
        width = layer_map.layers[number // 2].width
        inputs = {"q": width, "out": width}
        for part in ("q", "k", "v", "out"):
            reads = inputs.get(part, layer_map.context if number % 2 else width)
            layers[f"{number}.to_{part}_lora.down.weight"] = (rank, reads)
            layers[f"{number}.to_{part}_lora.up.weight"] = (width, rank)
    return {"image_proj": random_state(PROJECTORS[family](sizes), seed), "ip_adapter": random_state(layers, seed + 1)}


def flat(state: dict) -> dict[str, torch.Tensor]:
    """The naming of .safetensors files."""
    return {f"{part}.{key}": value.contiguous() for part, inner in state.items() for key, value in inner.items()}
