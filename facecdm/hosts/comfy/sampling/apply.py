"""The triplet attention in ComfyUI: what a MODEL is made of, and how a person is patched into it."""

from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from ....adapter.gates import Schedule
from ....adapter.layers import Layer, LayerMap
from ....adapter.person import Person
from ....errors import Mismatch, UnsupportedModel
from .patch import TripletPatch
from .run import PEOPLE, prepare_step, sample_with_run

_BLOCKS = {"input": "input_blocks", "output": "output_blocks", "middle": "middle_block"}


def layer_map(model) -> LayerMap:
    """The cross-attention layers of a MODEL (ModelPatcher). Raises UnsupportedModel where it has none of ours."""
    attentions = _attentions(model)
    widths = [module.to_k.in_features for _, _, module in attentions]
    return LayerMap(
        tuple(Layer(key[0], module.to_q.out_features, module.heads) for key, _, module in attentions), widths[0]
    )


def text_keys_values(model) -> Iterator[tuple[Tensor, Tensor]]:
    """The weights of the base model's own text keys and values, without LoRA patches, in the layer map's order."""
    originals = model.backup
    for _, name, module in _attentions(model):
        yield tuple(
            originals[f"{name}.{part}.weight"].weight
            if f"{name}.{part}.weight" in originals
            else getattr(module, part).weight
            for part in ("to_k", "to_v")
        )


def attention_paths(model) -> list[str]:
    """Paths of all attentions, as IP-Adapter counts them: self (even) and cross (odd) of each block in turn."""
    cross = [name for _, name, _ in _attentions(model)]
    return [path for name in cross for path in (name.removesuffix("attn2") + "attn1", name)]


def schedule(model, values: tuple[float, ...]) -> Schedule | None:
    """Factors at even distances over the sampling → over the noise level; None where they do not change."""
    if len(set(values)) == 1 and values[0] == 1:
        return None
    sampling, places = model.get_model_object("model_sampling"), torch.linspace(0, 1, max(len(values) - 1, 1) * 8 + 1)
    values = values if len(values) > 1 else values * 2
    at = places * (len(values) - 1)
    low = at.floor().clamp(max=len(values) - 2).long()
    points = torch.tensor(values)
    sigmas = torch.tensor([float(sampling.percent_to_sigma(float(place))) for place in places])
    ends = (float(sampling.sigma_min), float(sampling.sigma_max))
    return Schedule(sigmas.clamp(*ends), points[low] + (at - low) * (points[low + 1] - points[low]))


def sigma_at(model, percent: float) -> float:
    """The noise level at `percent` (0…1) of the sampling; infinity at its start."""
    return model.get_model_object("model_sampling").percent_to_sigma(percent) if percent > 0 else float("inf")


def apply_person(model, person: Person):
    """A copy of MODEL that shows `person`, beside everybody and everything already patched into it.

    Raises Mismatch where the person's adapter was made for another base.
    """
    import comfy.patcher_extension

    found = layer_map(model)
    wanted = person.adapter.config.layer_map
    if found != wanted:
        published = getattr(person.adapter.config, "counterpart", lambda base: "")(found.base)
        raise Mismatch(
            f"this adapter was made for {wanted.base}, and the MODEL is {found.base}; load an adapter "
            f"for that base{f' ({published})' if published else ''}, or connect the MODEL that this one was "
            "made for"
        )
    model = model.clone()
    options = model.model_options["transformer_options"] = dict(model.model_options.get("transformer_options", {}))
    first = PEOPLE not in options
    options[PEOPLE] = (*options.get(PEOPLE, ()), person)
    if first:
        kinds = comfy.patcher_extension.WrappersMP
        model.add_wrapper_with_key(kinds.OUTER_SAMPLE, PEOPLE, sample_with_run)
        model.add_wrapper_with_key(kinds.CALC_COND_BATCH, PEOPLE, prepare_step)
    _occupy(options, [key for key, _, _ in _attentions(model)])
    return model


def _occupy(options: dict, keys: list[tuple]) -> None:
    """Put our patch on every cross-attention layer; who sits there already is kept, inside ours."""
    replace = options["patches_replace"] = dict(options.get("patches_replace", {}))
    patches = replace["attn2"] = dict(replace.get("attn2", {}))
    alone = {block for block, count in Counter(key[:2] for key in keys).items() if count == 1}
    for index, key in enumerate(keys):
        occupant = patches.get(key, patches.get(key[:2]))
        patch = occupant if isinstance(occupant, TripletPatch) else TripletPatch(index, occupant)
        patches[key] = patch
        if key[:2] in alone:  # where IPAdapter_plus looks for a patch to add to; core would take the longer key
            patches[key[:2]] = patch


def _attentions(model) -> list[tuple[tuple, str, object]]:
    """(patch key, path of the module, module) of each cross-attention layer: input, output, middle."""
    from comfy.ldm.modules.attention import SpatialTransformer

    unet = model.model.diffusion_model
    found = []
    for part, attribute in _BLOCKS.items():
        blocks = getattr(unet, attribute, ())
        for number, block in enumerate([blocks] if part == "middle" and blocks else blocks):
            prefix = f"diffusion_model.{attribute}" + ("" if part == "middle" else f".{number}")
            found += [
                ((part, number, i), f"{prefix}.{place}.transformer_blocks.{i}.attn2", inner.attn2)
                for place, module in enumerate(block)
                if type(module) is SpatialTransformer
                for i, inner in enumerate(module.transformer_blocks)
            ]
    if not found:
        raise UnsupportedModel(
            "FaceCDM works in the cross-attention of U-Nets (SD1.5, SD2, SDXL and their fine-tunes). This MODEL is a "
            f"{type(model.model).__name__} ({type(unet).__name__}), which has none: load a checkpoint of those."
        )
    return found
