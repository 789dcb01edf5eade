"""An independent reference: diffusers' own load_ip_adapter, on the U-Net of `twins`."""

from contextlib import contextmanager

import torch
from diffusers.loaders import IPAdapterMixin


class _Pipeline(IPAdapterMixin):
    """The parts of a pipeline that load_ip_adapter needs."""

    unet_name = "unet"

    def __init__(self, unet):
        self.unet, self.dtype, self.device = unet, torch.float32, torch.device("cpu")

    def load_lora_weights(self, lora, adapter_name):
        self.unet.load_lora_adapter(lora, prefix="unet", adapter_name=adapter_name)

    def set_adapters(self, names, adapter_weights):
        self.unet.set_adapters(names, adapter_weights)


@contextmanager
def diffusers_adapters(twins, *sources, names=None):
    """The twins' diffusers U-Net with adapters: nested states, or a folder with the files' `names`."""
    unet = twins.unet
    before = unet.attn_processors
    try:
        _Pipeline(unet).load_ip_adapter(
            list(sources), subfolder="", weight_name=names or [""] * len(sources), image_encoder_folder=None
        )
        yield unet.encoder_hid_proj.image_projection_layers
    finally:
        if getattr(unet, "peft_config", None):
            unet.unload_lora()
        unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = None, None  # keep its own attention processors
        unet.set_attn_processor(before)


def predict_with_images(twins, x, sigma: float, text, images: list, pooled=None):
    """ε for latents [B, 4, h, w], texts [B, T, C], and each adapter's features [B, references, …]."""
    t = twins.model.model.model_sampling.timestep(torch.tensor([sigma]))
    added = {"image_embeds": images}
    if twins.sdxl:
        h, w = (8 * side for side in x.shape[-2:])
        added |= {
            "text_embeds": pooled.expand(len(x), -1),
            "time_ids": torch.tensor([[h, w, 0, 0, h, w]]).float().expand(len(x), -1),
        }
    with torch.no_grad():
        return twins.unet(x / (sigma**2 + 1) ** 0.5, t, text, added_cond_kwargs=added).sample
