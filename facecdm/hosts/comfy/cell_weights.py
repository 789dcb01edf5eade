"""The weights of residual cells, which ComfyUI counts, loads and offloads with the MODEL."""

from weakref import WeakKeyDictionary

from torch import nn

from ...adapter.cells import StreamCells

KEY = "facecdm_cells"  # of a MODEL's additional models
_PATCHERS: WeakKeyDictionary = WeakKeyDictionary()  # ModelPatcher by stream, which combined adapters share


def add_cells(model, adapter: nn.Module) -> None:
    """Let ComfyUI load the adapter's cells whenever it loads `model`."""
    for stream in adapter.streams.values():
        if isinstance(stream, StreamCells) and stream.at:
            own, others = _patcher_of(stream), model.get_additional_models_with_key(KEY)
            if all(other.model is not own.model for other in others):
                model.set_additional_models(KEY, [*others, own])


def _patcher_of(stream: StreamCells):
    """A patcher of the stream's cells. ComfyUI's layers replace the stream's, so that there is one copy of them."""
    import comfy.model_management
    import comfy.model_patcher
    import comfy.ops

    if stream not in _PATCHERS:
        queries = stream.queries_with(comfy.ops.manual_cast)
        queries.load_state_dict(stream.queries.state_dict(), assign=True)
        stream.queries = queries.requires_grad_(False)
        kind = getattr(comfy.model_patcher, "CoreModelPatcher", comfy.model_patcher.ModelPatcher)
        _PATCHERS[stream] = kind(
            queries, comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        )
    return _PATCHERS[stream]
