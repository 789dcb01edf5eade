"""The same small Flux.1, and a ControlNet for it, in ComfyUI and in diffusers, on shared tensors."""

import flux
import torch
from tensors import fill_randomly
from torch.nn import functional as F

BLOCKS = dict(depth=3, depth_single_blocks=2)


def diffusers_sizes(sizes: dict) -> dict:
    """diffusers' names for the sizes of a Flux in ComfyUI."""
    return dict(
        patch_size=1,
        in_channels=64,
        num_layers=sizes["depth"],
        num_single_layers=sizes["depth_single_blocks"],
        attention_head_dim=sizes["hidden_size"] // sizes["num_heads"],
        num_attention_heads=sizes["num_heads"],
        joint_attention_dim=sizes["context_in_dim"],
        pooled_projection_dim=24,
        guidance_embeds=True,
        axes_dims_rope=tuple(sizes["axes_dim"]),
    )


def _filled(model, seed: int):
    fill_randomly(model, seed, norms="norm_", bias=0.1)
    return model.requires_grad_(False).eval()


def _converted(model) -> dict:
    from comfy.model_detection import convert_diffusers_mmdit

    state = {key: value.clone() for key, value in model.state_dict().items()}  # the conversion writes into some
    return convert_diffusers_mmdit(state) | state


def make_twins(context: int, **sizes):
    """(ComfyUI's MODEL, diffusers' FluxTransformer2DModel)."""
    from diffusers import FluxTransformer2DModel

    sizes = {**flux.SMALL, "context_in_dim": context, **BLOCKS, **sizes}
    theirs = _filled(FluxTransformer2DModel(**diffusers_sizes(sizes)), 0)
    model = flux.make_flux(**sizes)
    model.model.diffusion_model.load_state_dict(_converted(theirs), strict=True)
    return model, theirs


def make_control_twins(context: int, **sizes):
    """(core's CONTROL_NET, diffusers' FluxControlNetModel), as core's loader makes one at Flux.1's own widths."""
    import comfy.controlnet
    import comfy.latent_formats
    import comfy.ops
    from comfy.ldm.flux.controlnet import ControlNetFlux
    from diffusers import FluxControlNetModel

    sizes = {**flux.SMALL, **sizes, "context_in_dim": context, "depth": 1, "depth_single_blocks": 1}
    theirs = _filled(FluxControlNetModel(**diffusers_sizes(sizes)), 1)
    cpu = torch.device("cpu")
    more = dict(latent_input=True, control_latent_channels=16, operations=comfy.ops.manual_cast)
    model = ControlNetFlux(**more, device=cpu, dtype=torch.float32, **flux.config("flux", **sizes))
    model.load_state_dict(_converted(theirs), strict=True)
    conds = dict(compression_ratio=1, latent_format=comfy.latent_formats.Flux(), extra_conds=["y", "guidance"])
    return comfy.controlnet.ControlNet(model, load_device=cpu, **conds), theirs


def inputs(x, sigma: float, conditioning, text=None) -> dict:
    """What both of diffusers' models read; `text` in place of the conditioning's."""
    ((own, options),) = conditioning
    text = own if text is None else text
    rows, _, height, width = x.shape
    ids = torch.zeros(height // 2, width // 2, 3)
    ids[..., 1], ids[..., 2] = torch.arange(height // 2)[:, None], torch.arange(width // 2)
    return dict(
        hidden_states=packed(x),
        timestep=torch.full((rows,), sigma),
        guidance=torch.full((rows,), options["guidance"]),
        pooled_projections=options["pooled_output"].expand(rows, -1),
        encoder_hidden_states=text.expand(rows, -1, -1),
        txt_ids=torch.zeros(text.shape[1], 3),
        img_ids=ids.flatten(0, 1),
        return_dict=False,
    )


def packed(x):
    return F.pixel_unshuffle(x, 2).flatten(2).transpose(1, 2)


@torch.no_grad()
def diffusers_prediction(transformer, x, sigma: float, conditioning, embeds=None, **more):
    """The velocity of diffusers' transformer; `embeds` [B, pictures, width] are an IP-Adapter's."""
    attention = None if embeds is None else {"ip_adapter_image_embeds": [embeds]}
    (out,) = transformer(**inputs(x, sigma, conditioning), joint_attention_kwargs=attention, **more)
    return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, (x.shape[-2] // 2, x.shape[-1] // 2)), 2)
