"""Apply the LoRA inside a FaceID file to the attention layers of a MODEL."""

from torch import Tensor

from ..unet import attention_paths

APPLIED = "facecdm_loras"  # in a model's transformer_options: strength by the LoRA's name
_TARGETS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def apply_lora(model, lora: dict[str, Tensor], strength: float, name: object):
    """A copy of MODEL with the LoRA at `strength` ≥ 0.

    A LoRA applied again under the same `name`, by the next person of the same adapter, gets the larger of both
    strengths, not their sum.
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
