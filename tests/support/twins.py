"""The same U-Net under both hosts: ComfyUI's and diffusers', on shared tensors."""

from dataclasses import dataclass
from types import SimpleNamespace

import torch

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter

SMALL_SD15 = SimpleNamespace(
    name="SD15",
    comfy=dict(
        model_channels=32,
        num_res_blocks=[2] * 4,
        channel_mult=[1, 2, 4, 4],
        context_dim=96,
        num_heads=8,
        transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1] * 9 + [0] * 3,
        use_linear_in_transformer=False,
        adm_in_channels=None,
    ),
    diffusers=dict(block_out_channels=[32, 64, 128, 128], cross_attention_dim=96, attention_head_dim=8),
)
SMALL_SDXL = SimpleNamespace(
    name="SDXL",
    comfy=dict(
        model_channels=32,
        num_res_blocks=[2] * 3,
        channel_mult=[1, 2, 4],
        context_dim=128,
        num_head_channels=64,
        transformer_depth=[0, 0, 2, 2, 3, 3],
        transformer_depth_middle=3,
        num_classes="sequential",
        transformer_depth_output=[0, 0, 0, 2, 2, 2, 3, 3, 3],
        use_linear_in_transformer=True,
        adm_in_channels=2816,
    ),
    diffusers=dict(
        block_out_channels=[32, 64, 128],
        cross_attention_dim=128,
        attention_head_dim=[1, 1, 2],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        up_block_types=["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        transformer_layers_per_block=[1, 2, 3],
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=256,
        projection_class_embeddings_input_dim=2816,
    ),
)
FULL_SD15 = SimpleNamespace(
    name="SD15",
    comfy=SMALL_SD15.comfy | dict(model_channels=320, context_dim=768),
    diffusers=dict(block_out_channels=[320, 640, 1280, 1280], cross_attention_dim=768, attention_head_dim=8),
)

# SDXL's widths, with one block where it has ten.
NARROW_SDXL = SimpleNamespace(
    name="SDXL",
    comfy=dict(
        model_channels=320,
        num_res_blocks=[1] * 3,
        channel_mult=[1, 2, 4],
        context_dim=2048,
        num_head_channels=64,
        transformer_depth=[0, 1, 1],
        transformer_depth_middle=1,
        num_classes="sequential",
        transformer_depth_output=[0, 0, 1, 1, 1, 1],
        use_linear_in_transformer=True,
        adm_in_channels=2816,
    ),
    diffusers=SMALL_SDXL.diffusers
    | dict(
        block_out_channels=[320, 640, 1280],
        cross_attention_dim=2048,
        attention_head_dim=[5, 10, 20],
        transformer_layers_per_block=[1, 1, 1],
        layers_per_block=1,
    ),
)


@dataclass(frozen=True)
class Twins:
    """`model` is a ComfyUI MODEL and `unet` a diffusers U-Net of the same weights."""

    model: object
    unet: torch.nn.Module
    sdxl: bool

    @property
    def context(self) -> int:
        return self.unet.config.cross_attention_dim

    def diffusers(self, x, sigma: float, text, pooled=None):
        """ε of the diffusers U-Net for latents x = x0 + σ·noise [B, 4, h, w]."""
        t = self.model.model.model_sampling.timestep(torch.tensor([sigma]))
        added = {}
        if self.sdxl:
            size = torch.tensor([[h, w, 0, 0, h, w] for h, w in [[8 * s for s in x.shape[-2:]]]]).float()
            added = {
                "added_cond_kwargs": {"text_embeds": pooled.expand(len(x), -1), "time_ids": size.expand(len(x), -1)}
            }
        return self.unet(x / (sigma**2 + 1) ** 0.5, t, text.expand(len(x), -1, -1), **added).sample


def predict(model, x, sigma: float, positive, negative=None, cfg: float = 1.0, times: int = 1):
    """ε of a ComfyUI MODEL through its own sampling, `times` U-Net evaluations; conditionings as ComfyUI has them."""
    import comfy.samplers

    result = {}

    def sampler(denoise, noise, sigmas, extra_args=None, callback=None, disable=None):
        for _ in range(times):
            result["denoised"] = denoise(x, sigmas[:1].expand(len(x)), **extra_args)
        return noise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative if negative is not None else positive)
    guider.set_cfg(cfg)
    with torch.inference_mode():
        guider.sample(
            torch.zeros_like(x),
            torch.zeros_like(x),
            comfy.samplers.KSAMPLER(sampler),
            torch.tensor([sigma, 0.0]),
            disable_pbar=True,
        )
    return (x - result["denoised"].clone()) / sigma


def conditioning(text, pooled=None, **more):
    return [[text, {"pooled_output": pooled, **more}]]


def make_twins(spec, dtype=torch.float32, computed_in=None, seed: int = 0) -> Twins:
    """`dtype` is that of ComfyUI's weights; `computed_in` another one that they are cast to at every use."""
    import comfy.model_base
    import comfy.model_patcher
    import comfy.supported_models
    import comfy.utils
    from diffusers import UNet2DConditionModel

    torch.manual_seed(seed)
    unet = UNet2DConditionModel(sample_size=32, **spec.diffusers).eval().requires_grad_(False)
    unet_config = dict(
        image_size=32,
        in_channels=4,
        out_channels=4,
        use_spatial_transformer=True,
        legacy=False,
        dtype=dtype,
        use_temporal_attention=False,
        use_temporal_resblock=False,
        **spec.comfy,
    )
    config = getattr(comfy.supported_models, spec.name)(unet_config)
    if computed_in is not None:
        config.set_inference_dtype(dtype, computed_in)
    with torch.device("meta"):
        kind = getattr(comfy.model_base, "SDXL" if spec.name == "SDXL" else "BaseModel")
        base = kind(config)
    # Schedules are made anew, since what the meta device made holds nothing.
    base.model_sampling = comfy.model_base.model_sampling(config, comfy.model_base.ModelType.EPS)
    if spec.name == "SDXL":
        base.embedder = comfy.model_base.Timestep(256)
        base.noise_augmentor = None
    names = comfy.utils.unet_to_diffusers(unet_config)
    own = {names[key]: value.to(dtype) for key, value in unet.state_dict().items()}
    base.diffusion_model.load_state_dict(own, assign=True)
    cpu = torch.device("cpu")
    return Twins(comfy.model_patcher.ModelPatcher(base, cpu, cpu), unet, spec.name == "SDXL")


def new_adapter(layer_map, image_width: int = 32, seed: int = 1, **sizes) -> TripletAdapter:
    torch.manual_seed(seed)
    sizes = dict(face_rank=16, image_tokens=5, image_layers=1) | sizes
    return TripletAdapter(AdapterConfig(layer_map, image_width=image_width, **sizes)).requires_grad_(False).eval()


def stir(adapter: TripletAdapter, seed: int = 2) -> TripletAdapter:
    """Give every weight that is initialised to zero a value, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in adapter.named_parameters():
        if "gate" in name or "to_out" in name or "kappa" in name or "router" in name:
            value.data.copy_(torch.randn(value.shape, generator=generator).abs() * 0.3 + 0.1)
    return adapter
