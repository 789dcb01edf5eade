"""The LoRA inside a FaceID file, on the attentions of a ComfyUI model."""

from torch import Tensor

from ..unet import attention_paths

APPLIED = "facecdm_loras"  # in a model's transformer_options: strength by what the LoRA is known as
_TARGETS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def apply_lora(model, lora: dict[str, Tensor], strength: float, name: object):
    """A copy of MODEL with the LoRA at that strength ≥ 0, `name` being what it is known as.

    A model has one LoRA of a name: applied again, by the next person of the same adapter, it comes to the larger of
    both strengths, not to their sum.
    """
    import comfy.lora

    options = model.model_options.get("transformer_options", {})
    applied = options.get(APPLIED, {})
    missing = strength - applied.get(name, 0.0)
    if missing <= 0:
        return model
    state, targets = {}, {}
    paths = attention_paths(model)
    for key, value in lora.items():
        number, part, direction, _ = key.split(".")  # 3.to_q_lora.down.weight
        path = f"{paths[int(number)]}.{_TARGETS[part.split('_')[1]]}"
        targets[path] = f"{path}.weight"
        state[f"{path}.lora_{direction}.weight"] = value
    model = model.clone()
    model.add_patches(comfy.lora.load_lora(state, targets), missing)
    model.model_options["transformer_options"] = {
        **model.model_options.get("transformer_options", {}),
        APPLIED: {**applied, name: strength},
    }
    return model
