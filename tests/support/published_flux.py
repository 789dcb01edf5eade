"""Made-up files of the families for Flux.1: the keys and shapes of the real ones, random values; and people."""

from dataclasses import dataclass

import torch
from published import Sizes, _mlp, _perceiver, _pulid_v11, random_state


@dataclass(frozen=True)
class FluxSizes:
    """Sizes of a base model and of adapters for it.

    width    of the base model's hidden states
    context  of PuLID's tokens
    pulid    inner width of PuLID's cells
    former   width of its IDFormer
    anyone   inner width of WithAnyone's cells
    states   of EVA-CLIP
    siglip   of SigLIP's states
    text     of the base model's text
    clip     of CLIP-L's pooled embedding
    so400m   of SigLIP so400m's pooled embedding
    """

    width: int = 3072
    context: int = 2048
    pulid: int = 2048
    former: int = 1024
    anyone: int = 1536
    states: int = 1024
    siglip: int = 768
    text: int = 4096
    clip: int = 768
    so400m: int = 1152


SMALL_FLUX = FluxSizes(48, 80, 256, 64, 128, 48, 40, 40, 32, 36)


def _cell(name: str, width: int, context: int, inner: int) -> dict:
    return _mlp([(f"{name}.norm1", (context,)), (f"{name}.norm2", (width,))]) | {
        f"{name}.to_q.weight": (inner, width),
        f"{name}.to_kv.weight": (2 * inner, context),
        f"{name}.to_out.weight": (width, inner),
    }


def pulid_flux(sizes: FluxSizes = FluxSizes(), cells: int = 20) -> dict[str, tuple[int, ...]]:
    former = Sizes(sizes.context, sizes.former, sizes.former // 64, 0, states=sizes.states)
    shapes = {f"pulid_encoder.{key}": shape for key, shape in _pulid_v11(former).items()}
    for number in range(cells):
        shapes |= _cell(f"pulid_ca.{number}", sizes.width, sizes.context, sizes.pulid)
    return shapes


def withanyone(sizes: FluxSizes = FluxSizes(), cells: int = 57) -> dict[str, tuple[int, ...]]:
    width, shapes = sizes.width, {}
    for part in ("arc", "sig"):
        hidden = 4 * width
        shapes |= _mlp([(f"arcface_in_{part}.0", (hidden, 512)), (f"arcface_in_{part}.2", (hidden,))])
        shapes |= _mlp([(f"arcface_in_{part}.3", (8 * width, hidden))])
        for number in range(cells):
            shapes |= _cell(f"ipa_{part}.{number}", width, width, sizes.anyone)
    names = [
        ("siglip_in_sig.0", (width, sizes.siglip)),
        ("siglip_in_sig.2", (width,)),
        ("siglip_in_sig.3", (width,) * 2),
    ]
    return shapes | _mlp(names)


def infiniteyou(text: int = 4096, width: int = 1280, tokens: int = 8) -> dict[str, tuple[int, ...]]:
    shapes = {"latents": (1, tokens, width)} | _perceiver(512, width, width // 64, text)
    return {f"image_proj.{key}": shape for key, shape in shapes.items()}


def state_of(shapes: dict, seed: int = 0) -> dict:
    return random_state(shapes, seed)


def features(seed: int = 0, references: int = 1):
    """PuLID-FLUX' features of made-up faces, for the small adapter."""
    from facecdm.adapter.features import Features

    generator = torch.Generator().manual_seed(seed)
    states = tuple(torch.randn(references, 6, SMALL_FLUX.states, generator=generator) for _ in range(5))
    return Features(torch.randn(references, 1280, generator=generator), states)


def person(adapter, seed: int = 0, references: int = 1, negative: bool = False, **more):
    """A person of PuLID-FLUX; with `negative`, the negative prompt gets the empty face's tokens."""
    from facecdm.adapter.person import Person

    shown = features(seed, references)
    if negative:
        more["negative"] = {"face": shown.empty(tuple(torch.zeros_like(state) for state in shown.states))}
    return Person(adapter, shown, **more)


def xlabs(tokens: int, sizes: FluxSizes = FluxSizes(), blocks: int = 19) -> dict[str, tuple[int, ...]]:
    context, pooled = sizes.text, sizes.clip
    shapes = _mlp(
        [("ip_adapter_proj_model.proj", (tokens * context, pooled)), ("ip_adapter_proj_model.norm", (context,))]
    )
    for number in range(blocks):
        name = f"double_blocks.{number}.processor.ip_adapter_double_stream"
        shapes |= _mlp([(f"{name}_{part}_proj", (sizes.width, context)) for part in "kv"])
    return shapes


def instantx(sizes: FluxSizes = FluxSizes(), blocks: int = 57, tokens: int = 128) -> dict[str, tuple[int, ...]]:
    context, pooled = sizes.text, sizes.so400m
    shapes = _mlp([("image_proj.proj.0", (2 * pooled, pooled)), ("image_proj.proj.2", (tokens * context, 2 * pooled))])
    shapes |= _mlp([("image_proj.norm", (context,))])
    for number in range(blocks):
        shapes |= {f"ip_adapter.{number}.to_{part}_ip.weight": (sizes.width, context) for part in "kv"}
    return shapes
