"""The attacher for DiTs: the blocks of a ComfyUI MODEL, in the layer map's order.

It knows the DiTs whose blocks are `double_blocks` and `single_blocks` (Flux.1, Chroma, and others of their design);
Stable Diffusion 3 and Qwen-Image, all of whose blocks are double ones; and Z-Image, whose blocks act on text and
picture as one sequence, so they are single ones.
"""

from importlib.util import find_spec

from torch import nn

from ...bases.layers import Layer, LayerMap
from ...errors import UnsupportedModel

_BLOCKS = {"double": "double_blocks", "single": "single_blocks"}
_OTHER_FLUX = ("Flux2", "ChromaRadiance", "LongCatImage")  # inherit Flux.1's class; not in all ComfyUIs


def is_dit(model) -> bool:
    dit = model.model.diffusion_model
    return any(is_kind(dit) for is_kind in (_is_flux, is_sd3, is_qwen_image, is_z_image))


def _is_flux(dit: nn.Module) -> bool:
    has_blocks = all(hasattr(dit, attribute) for attribute in _BLOCKS.values())
    return has_blocks and hasattr(getattr(dit, "params", None), "context_in_dim")


def is_sd3(dit: nn.Module) -> bool:
    return hasattr(dit, "joint_blocks") and hasattr(getattr(dit, "context_embedder", None), "in_features")


def is_qwen_image(dit: nn.Module) -> bool:
    return _class_name(dit) == "QwenImageTransformer2DModel"


def is_z_image(dit: nn.Module) -> bool:
    """Whether it is a Z-Image, whose class is also that of Lumina 2 and NewBie."""
    is_own = getattr(dit, "pad_tokens_multiple", None) and getattr(dit, "clip_text_pooled_proj", None) is None
    return bool(is_own) and _class_name(dit) == "NextDiT"


def _class_name(dit: nn.Module) -> str:
    """The name of a DiT's class, also within torch.compile's wrapper."""
    return type(getattr(dit, "_orig_mod", dit)).__name__


def layer_map(model) -> LayerMap:
    """The blocks of a MODEL that `is_dit`."""
    dit = model.model.diffusion_model
    if is_sd3(dit):
        return _of_one_kind("double", dit.joint_blocks, dit.hidden_size, dit.num_heads, dit.context_embedder)
    if is_qwen_image(dit):
        heads = dit.transformer_blocks[0].num_attention_heads
        return _of_one_kind("double", dit.transformer_blocks, dit.inner_dim, heads, dit.txt_in)
    if is_z_image(dit):
        return _of_one_kind("single", dit.layers, dit.dim, dit.n_heads, dit.cap_embedder[1])
    layers = (
        Layer(part, dit.hidden_size, dit.num_heads)
        for part, attribute in _BLOCKS.items()
        for _ in getattr(dit, attribute)
    )
    return LayerMap(tuple(layers), dit.params.context_in_dim)


def _of_one_kind(part: str, blocks: nn.ModuleList, width: int, heads: int, text: nn.Linear) -> LayerMap:
    return LayerMap.of_runs(text.in_features, (part, width, heads, len(blocks)))


def check_trainable(model) -> None:
    """Raise UnsupportedModel for a DiT that FaceCDM cannot train an adapter for."""
    import comfy.model_base as kinds

    base, own = model.model, (kinds.Flux, kinds.SD3, kinds.QwenImage, kinds.Lumina2)
    others = tuple(getattr(kinds, name) for name in _OTHER_FLUX if hasattr(kinds, name))
    if not isinstance(base, own) or isinstance(base, others):
        raise UnsupportedModel(
            "FaceCDM has adapters of its own for the DiTs Flux.1, Chroma, SD3.5, Qwen-Image and Z-Image, and this "
            f"MODEL is a {type(base).__name__}: connect one of those, or a U-Net"
        )


def check_applicable(model) -> None:
    """Raise UnsupportedModel if this ComfyUI has no hook after the blocks of MODEL.

    ComfyUI does not replace blocks of Z-Image; newer versions (0.33) call `double_block` patches, 0.3.75 does not. The
    versions that call them have Z-Image's ControlNets, which act there.
    """
    if is_z_image(model.model.diffusion_model) and find_spec("comfy.ldm.lumina.controlnet") is None:
        from comfyui_version import __version__

        raise UnsupportedModel(
            f"ComfyUI {__version__} calls no patch after the blocks of Z-Image, so an adapter cannot act there: update "
            "ComfyUI"
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
