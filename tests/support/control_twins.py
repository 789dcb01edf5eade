"""The same ControlNet under both hosts: core's CONTROL_NET and diffusers' ControlNetModel, on shared tensors."""

from dataclasses import dataclass

import torch
from twins import Twins


@dataclass(frozen=True)
class ControlTwins:
    net: object
    model: torch.nn.Module

    def diffusers(
        self,
        twins: Twins,
        x,
        sigma: float,
        text,
        tokens,
        picture,
        pooled,
        strength: float = 1.0,
        weigh=lambda value: value,
    ):
        """ε of diffusers' U-Net, held by its ControlNet, which reads `tokens` where the U-Net reads `text`.

        `picture` [1, H, W, 3] as IMAGE, of the latents' size times eight; `weigh` is done to each of its outputs.
        """
        residuals = self.residuals(twins, x, sigma, tokens, picture, pooled, strength)
        return held(twins, x, sigma, text, [weigh(value) for value in residuals], pooled)

    def residuals(self, twins: Twins, x, sigma: float, tokens, picture, pooled, strength: float) -> list:
        """What the net adds to the skips, and last to the middle block."""
        down, middle = self.model(
            **_inputs(twins, x, sigma, tokens, pooled),
            controlnet_cond=picture.movedim(-1, 1),
            conditioning_scale=strength,
            return_dict=False,
        )
        return [*down, middle]


def held(twins: Twins, x, sigma: float, text, residuals: list, pooled):
    """ε of diffusers' U-Net with those residuals."""
    *down, middle = residuals
    return twins.unet(
        **_inputs(twins, x, sigma, text, pooled),
        down_block_additional_residuals=down,
        mid_block_additional_residual=middle,
    ).sample


def _inputs(twins: Twins, x, sigma: float, text, pooled) -> dict:
    height, width = (8 * s for s in x.shape[-2:])
    size = torch.tensor([[height, width, 0, 0, height, width]]).float().expand(len(x), -1)
    return {
        "sample": x / (sigma**2 + 1) ** 0.5,
        "encoder_hidden_states": text.expand(len(x), -1, -1),
        "timestep": twins.model.model.model_sampling.timestep(torch.tensor([sigma])),
        "added_cond_kwargs": {"text_embeds": pooled.expand(len(x), -1), "time_ids": size},
    }


def make_control_twins(spec, seed: int = 0) -> ControlTwins:
    """For `twins.SMALL_SDXL`: core's loader takes small files with 64-wide heads alone."""
    import comfy.controlnet
    import comfy.utils
    from diffusers import ControlNetModel

    torch.manual_seed(seed)
    sizes = {key: value for key, value in spec.diffusers.items() if key != "up_block_types"}
    model = ControlNetModel(conditioning_embedding_out_channels=(16, 32, 96, 256), **sizes).eval().requires_grad_(False)
    for value in model.parameters():
        if not value.any():  # the zero convolutions, as training would have left them
            value.copy_(torch.randn(value.shape) * 0.1)
    return ControlTwins(comfy.controlnet.load_controlnet_state_dict(cldm_keys(model.state_dict(), spec)), model)


def cldm_keys(state: dict, spec) -> dict:
    """diffusers' names of a ControlNet's tensors → those of the files that ControlNet's authors published."""
    import comfy.utils

    names = comfy.utils.unet_to_diffusers(spec.comfy)
    hint = ["conv_in", *(f"blocks.{i}" for i in range(6)), "conv_out"]
    stems = {f"controlnet_cond_embedding.{stem}": f"input_hint_block.{2 * i}" for i, stem in enumerate(hint)}
    stems |= {f"controlnet_down_blocks.{i}": f"zero_convs.{i}.0" for i in range(20)}
    stems["controlnet_mid_block"] = "middle_block_out.0"
    renamed = {}
    for key, value in state.items():
        stem, _, suffix = key.rpartition(".")
        renamed[f"{stems[stem]}.{suffix}" if stem in stems else names[key]] = value
    return renamed
