"""What nobody here wrote: diffusers' own load_ip_adapter, on the U-Net of `twins`."""

from contextlib import contextmanager

import torch
from diffusers.loaders import IPAdapterMixin, StableDiffusionLoraLoaderMixin


class _Pipeline(StableDiffusionLoraLoaderMixin, IPAdapterMixin):
    """As little of a pipeline as load_ip_adapter needs."""

    def __init__(self, unet):
        self.unet, self.components = unet, {"unet": unet}
        self.dtype, self.device, self.hf_device_map = torch.float32, torch.device("cpu"), None

    def get_list_adapters(self):
        return {"unet": list(getattr(self.unet, "peft_config", {}))}


@contextmanager
def diffusers_adapters(twins, *sources, names=None):
    """The twins' diffusers U-Net with adapters in it: nested states, or a folder with the files' `names`."""
    unet = twins.unet
    before = unet.attn_processors
    pipeline = _Pipeline(unet)
    pipeline.load_ip_adapter(list(sources), subfolder="", weight_name=names or [""] * len(sources),
                             image_encoder_folder=None)
    try:
        yield unet.encoder_hid_proj.image_projection_layers
    finally:
        if getattr(unet, "peft_config", None):
            pipeline.unload_lora_weights()
        unet.encoder_hid_proj, unet.config.encoder_hid_dim_type = None, None  # it has attentions of its own
        unet.set_attn_processor(before)


def predict_with_images(twins, x, sigma: float, text, images: list, pooled=None):
    """ε for latents [B, 4, h, w], texts [B, T, C], and each adapter's features [B, references, …]."""
    t = twins.model.model.model_sampling.timestep(torch.tensor([sigma]))
    added = {"image_embeds": images}
    if twins.sdxl:
        h, w = (8 * side for side in x.shape[-2:])
        added |= {"text_embeds": pooled.expand(len(x), -1),
                  "time_ids": torch.tensor([[h, w, 0, 0, h, w]]).float().expand(len(x), -1)}
    with torch.no_grad():
        return twins.unet(x / (sigma**2 + 1) ** 0.5, t, text, added_cond_kwargs=added).sample
