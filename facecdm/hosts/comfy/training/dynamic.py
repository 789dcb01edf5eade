"""Copies of models for training, since gradients cannot be computed in ComfyUI's dynamic VRAM."""

from ....errors import UnsupportedModel


def static_patcher(patcher):
    """The ModelPatcher, or in dynamic VRAM a clone that keeps whole weights on its device.

    ModelPatcherDynamic (ComfyUI 0.33 and later) ignores `force_full_load`: it copies each weight into memory that
    later layers reuse, so a backward pass would read other weights. Core's non-dynamic clone reads the model's file
    anew. Raises UnsupportedModel if the model's loader does not support that.
    """
    if not _is_dynamic(patcher):
        return patcher
    try:
        return patcher.clone(disable_dynamic=True)
    except RuntimeError as error:
        raise UnsupportedModel(
            f"ComfyUI keeps this {type(patcher.model).__name__} in dynamic VRAM, where it cannot be trained: load it "
            "with a core loader, or start ComfyUI with --disable-dynamic-vram"
        ) from error


def static_control(control):
    """A copy of a CONTROL_NET that keeps whole weights on its device.

    It shares the weights with the original. In dynamic VRAM it has a copy of the weights in a non-dynamic patcher
    instead, made by core's `deepclone_multigpu`.
    """
    if any(_is_dynamic(patcher) for patcher in control.get_models()):
        return control.deepclone_multigpu(control.load_device)
    return control.copy()


def _is_dynamic(patcher) -> bool:
    return bool(getattr(patcher, "is_dynamic", bool)())
