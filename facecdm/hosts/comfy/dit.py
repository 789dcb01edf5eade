"""The attacher for DiTs: the blocks of a ComfyUI MODEL, in the layer map's order.

It knows the DiTs whose blocks are `double_blocks` and `single_blocks` (Flux.1, Chroma, and others of their design), and
Stable Diffusion 3, whose `joint_blocks` are double blocks.
"""

from torch import nn

from ...bases.layers import Layer, LayerMap
from ...errors import UnsupportedModel

_BLOCKS = {"double": "double_blocks", "single": "single_blocks"}


def is_dit(model) -> bool:
    dit = model.model.diffusion_model
    has_blocks = all(hasattr(dit, attribute) for attribute in _BLOCKS.values())
    return has_blocks and hasattr(getattr(dit, "params", None), "context_in_dim") or _is_sd3(dit)


def _is_sd3(dit: nn.Module) -> bool:
    return hasattr(dit, "joint_blocks") and hasattr(getattr(dit, "context_embedder", None), "in_features")


def layer_map(model) -> LayerMap:
    """The blocks of a MODEL that `is_dit`."""
    dit = model.model.diffusion_model
    if _is_sd3(dit):
        layers = (Layer("double", dit.hidden_size, dit.num_heads) for _ in dit.joint_blocks)
        return LayerMap(tuple(layers), dit.context_embedder.in_features)
    layers = (
        Layer(part, dit.hidden_size, dit.num_heads)
        for part, attribute in _BLOCKS.items()
        for _ in getattr(dit, attribute)
    )
    return LayerMap(tuple(layers), dit.params.context_in_dim)


def check_trainable(model) -> None:
    """Raise UnsupportedModel for a DiT that FaceCDM cannot train an adapter for."""
    import comfy.model_base as kinds

    base, others = model.model, [getattr(kinds, name, None) for name in ("Flux2", "ChromaRadiance")]
    if not isinstance(base, (kinds.Flux, kinds.SD3)) or isinstance(base, tuple(kind for kind in others if kind)):
        raise UnsupportedModel(
            f"FaceCDM has adapters of its own for the DiTs Flux.1, Chroma and SD3.5, and this MODEL is a "
            f"{type(base).__name__}: connect one of those, or a U-Net"
        )


def reads_pooled(dit: nn.Module) -> bool:
    """Whether a DiT reads the prompts' pooled states."""
    return any(getattr(dit, name, None) is not None for name in ("vector_in", "y_embedder"))


def block_keys(layer_map: LayerMap) -> list[tuple[str, int]]:
    """The key of each block in ComfyUI's `patches_replace["dit"]`: (kind, number among its kind)."""
    numbers = {part: 0 for part in _BLOCKS}
    keys = []
    for layer in layer_map.layers:
        keys.append((f"{layer.part}_block", numbers[layer.part]))
        numbers[layer.part] += 1
    return keys
