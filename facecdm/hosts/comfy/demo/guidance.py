"""Perturbed-attention guidance (PAG; Ahn et al. 2024, arXiv 2403.17377) in every self-attention of the demo model.

Core's node PerturbedAttentionGuidance perturbs the middle block only, which hardly changes this model's prediction.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from ....bases.demo import ATTENTION_GUIDANCE, GUIDED_BELOW
from ..sampling.patch import TripletPatch
from ..unet import cross_attentions


@dataclass(frozen=True)
class AttentionGuidance:
    """A function after CFG: it moves the prediction away from that of a worse U-Net, in which the positions of a
    picture do not see each other, and which shows nobody.

    keys   of the blocks with self-attention, as ("input", 1)
    scale  how far it moves, in differences of the two predictions
    """

    keys: tuple[tuple[str, int], ...]
    scale: float

    def __call__(self, args: dict) -> Tensor:
        from comfy.samplers import calc_cond_batch

        if args["sigma"].max() > GUIDED_BELOW:
            return args["denoised"]
        options = self._perturbed(args["model_options"])
        (worse,) = calc_cond_batch(args["model"], [args["cond"]], args["input"], args["sigma"], options)
        return args["denoised"] + self.scale * (args["cond_denoised"] - worse)

    def _perturbed(self, model_options: dict) -> dict:
        """A model's options for the worse U-Net."""
        options = model_options.get("transformer_options", {})
        replace = options.get("patches_replace", {})
        patches = {
            "attn1": replace.get("attn1", {}) | dict.fromkeys(self.keys, _values),
            "attn2": {
                key: other for key, patch in replace.get("attn2", {}).items() if (other := _without_people(patch))
            },
        }
        return {**model_options, "transformer_options": {**options, "patches_replace": {**replace, **patches}}}


def _values(q: Tensor, k: Tensor, v: Tensor, extra_options: dict, mask: Tensor | None = None) -> Tensor:
    """Attention of each position to itself only."""
    return v


def _without_people(patch: Callable) -> Callable | None:
    """The patch that people's patch was put over, if any; another pack's patch as it is."""
    return patch.previous if isinstance(patch, TripletPatch) else patch


def guided(model, scale: float = ATTENTION_GUIDANCE):
    """A copy of the demo's MODEL with this guidance; MODEL itself if `scale` is 0."""
    if scale == 0:
        return model
    model = model.clone()
    keys = tuple(dict.fromkeys(layer.key[:2] for layer in cross_attentions(model)))
    model.set_model_sampler_post_cfg_function(AttentionGuidance(keys, scale))
    return model
