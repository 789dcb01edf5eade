"""The weights of an adapter that every step uses, which ComfyUI counts, loads and offloads with the MODEL."""

from weakref import WeakKeyDictionary

from torch import nn

from ...adapter.stream_module import StreamModule

KEY = "facecdm_cells"  # of a MODEL's additional models
_PATCHERS: WeakKeyDictionary = WeakKeyDictionary()  # ModelPatcher by stream, which combined adapters share


def add_step_weights(model, adapter: nn.Module) -> None:
    """Let ComfyUI load what the adapter runs at every step whenever it loads `model`."""
    for stream in adapter.streams.values():
        if stream.every_step is not None:
            own, others = _patcher_of(stream), model.get_additional_models_with_key(KEY)
            if all(other.model is not own.model for other in others):
                model.set_additional_models(KEY, [*others, own])


def _patcher_of(stream: StreamModule):
    """A patcher of what the stream runs. ComfyUI's layers replace the stream's, so that there is one copy of them."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops

    if stream not in _PATCHERS:
        kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        _PATCHERS[stream] = kind(
            stream.use_operations(comfy.ops.manual_cast),
            comfy.model_management.get_torch_device(),
            comfy.model_management.unet_offload_device(),
        )
    return _PATCHERS[stream]
