"""Patch a person into a ComfyUI MODEL."""

from collections import Counter

from ....adapter.person import Person
from ....errors import Mismatch
from ....formats.fit import check_fit
from ....invocation import command_line
from ..base_model import layer_map
from ..dit import check_applicable
from ..step_weights import add_step_weights
from ..unet import cross_attentions
from .cells import apply_with_cells
from .decoupled import check_version
from .patch import TripletPatch, own_patches
from .run import PEOPLE
from .wrappers import apply_with_tiles, prepare_step, sample_with_run


def check_base(model, adapter) -> None:
    """Raises Mismatch if `adapter` was made for another base than MODEL or does not act in it, UnsupportedModel if no
    adapter fits it."""
    check_fit(adapter, layer_map(model))


def check_latents(model, adapter) -> None:
    """Raises Mismatch if the adapter's location head reads other latents than MODEL has."""
    channels, read = model.model.latent_format.latent_channels, adapter.config.location_channels
    if read not in (channels, 4 * channels):
        raise Mismatch(
            f"this adapter finds the face in latents of {read} channels, and the MODEL's have {channels}: connect a "
            f"pose, or give the adapter a location head for this base model (`{command_line('train-location')}`)"
        )


def apply_person(model, person: Person):
    """A copy of MODEL with `person` added; people and patches already in it are kept.

    Raises as `check_base`, `check_latents`, `check_applicable` and `check_version`.
    """
    import comfy.patcher_extension

    check_base(model, person.adapter)
    check_applicable(model)
    check_version(person.adapter)
    if person.finds_location:
        check_latents(model, person.adapter)
    model = model.clone()
    options = model.model_options["transformer_options"] = dict(model.model_options.get("transformer_options", {}))
    first = PEOPLE not in options
    options[PEOPLE] = (*options.get(PEOPLE, ()), person)
    if first:
        kinds = comfy.patcher_extension.WrappersMP
        model.add_wrapper_with_key(kinds.OUTER_SAMPLE, PEOPLE, sample_with_run)
        model.add_wrapper_with_key(kinds.CALC_COND_BATCH, PEOPLE, prepare_step)
        model.add_wrapper_with_key(kinds.APPLY_MODEL, PEOPLE, apply_with_tiles)
    if not person.adapter.config.layer_map.is_dit:
        if first:
            model.add_callback_with_key(comfy.patcher_extension.CallbacksMP.ON_CLONE, PEOPLE, own_patches)
        _patch_unet(options, [layer.key for layer in cross_attentions(model)])
        return model
    if first:
        model.add_wrapper_with_key(kinds.APPLY_MODEL, PEOPLE, apply_with_cells)
    add_step_weights(model, person.adapter)
    return model


def _patch_unet(options: dict, keys: list[tuple]) -> None:
    """Put our patch on every cross-attention layer; it calls the previous patch, if any."""
    replace = options["patches_replace"] = dict(options.get("patches_replace", {}))
    patches = replace["attn2"] = dict(replace.get("attn2", {}))
    alone = {block for block, count in Counter(key[:2] for key in keys).items() if count == 1}
    for index, key in enumerate(keys):
        previous = patches.get(key, patches.get(key[:2]))
        patch = previous if isinstance(previous, TripletPatch) else TripletPatch(index, previous)
        patches[key] = patch
        if key[:2] in alone:  # IPAdapter_plus extends the patch at this key; core reads the longer key first
            patches[key[:2]] = patch
