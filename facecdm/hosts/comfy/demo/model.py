"""The demo model as ComfyUI's MODEL, CLIP, VAE and CLIP_VISION, from one weights file."""

import functools
import json
import logging
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import comfy.clip_vision
import comfy.latent_formats
import comfy.ldm.common_dit
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.sd1_clip
import comfy.supported_models_base
import comfy.utils
import torch
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy.patcher_extension import WrappersMP
from torch import Tensor, nn
from torch.nn import functional as F

from ....demo.autoencoder import PATCH, build_autoencoder
from ....demo.clip import FULL_VOCABULARY, ClipSizes
from ....demo.schedule import SAMPLING_SETTINGS
from ....demo.sizes import DemoSizes
from ....demo.weights import DemoWeights, read
from ....errors import BadFile
from .areas import SHUFFLE, align_areas
from .words import DemoTokenizer

# Not CoreModelPatcher: dynamic VRAM saves nothing on so small a model, and does not support training.
Patcher = comfy.model_patcher.ModelPatcher


@dataclass(frozen=True)
class DemoModel:
    """The outputs of Load FaceCDM Demo Model."""

    model: comfy.model_patcher.ModelPatcher
    clip: comfy.sd.CLIP
    vae: comfy.sd.VAE
    clip_vision: comfy.clip_vision.ClipVisionModel


def load(path: Path | None = None) -> DemoModel:
    """Read and build. Raises MissingModel, BadFile as `read`."""
    return build(read(path))


def build(weights: DemoWeights) -> DemoModel:
    return DemoModel(build_model(weights), build_clip(weights), build_vae(weights), build_clip_vision(weights))


def core_unet_config(sizes: DemoSizes) -> dict:
    """The configuration of ComfyUI's UNetModel that matches diffusers' `sizes.unet_config()`."""
    depths = [int(attends) for attends in sizes.attention]
    return {
        "use_checkpoint": False,
        "image_size": 32,
        "use_spatial_transformer": True,
        "legacy": False,
        "in_channels": sizes.latent_channels,
        "out_channels": sizes.latent_channels,
        "model_channels": sizes.channels[0],
        "channel_mult": [width // sizes.channels[0] for width in sizes.channels],
        "num_res_blocks": [1] * len(depths),
        "transformer_depth": depths,
        "transformer_depth_middle": 1,
        "transformer_depth_output": [depth for depth in depths for _ in range(2)],
        "context_dim": sizes.clip.width,
        "num_heads": -1,
        "num_head_channels": 64,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
        "use_temporal_attention": False,
        "use_temporal_resblock": False,
    }


class ShuffledUNet(UNetModel):
    """Core's U-Net on latents at twice its resolution (`DemoSizes.shuffle`)."""

    shuffle = SHUFFLE

    def forward(self, x: Tensor, *arguments, **options) -> Tensor:
        height, width = x.shape[-2:]
        x = comfy.ldm.common_dit.pad_to_patch_size(x, (self.shuffle, self.shuffle))
        out = super().forward(F.pixel_unshuffle(x, self.shuffle), *arguments, **options)
        return F.pixel_shuffle(out, self.shuffle)[..., :height, :width]


class ShuffledAutoencoder(nn.Module):
    """An autoencoder with latents at twice its own resolution."""

    def __init__(self, inner: nn.Module, shuffle: int):
        super().__init__()
        self.inner, self.shuffle = inner, shuffle

    def encode(self, pixels: Tensor) -> Tensor:
        return F.pixel_shuffle(self.inner.encode(pixels), self.shuffle)

    def decode(self, latents: Tensor) -> Tensor:
        return self.inner.decode(F.pixel_unshuffle(latents, self.shuffle))


class DemoLatents(comfy.latent_formats.LatentFormat):
    """Unscaled latents; previews show the mean colour of every decoded patch."""

    scale_factor = 1.0

    def __init__(self, vae: dict[str, Tensor], shuffle: int = 1):
        linear = "decoder.linear" if "decoder.linear.weight" in vae else "decoder"
        weight, bias = vae[f"{linear}.weight"].float(), vae[f"{linear}.bias"].float()
        self.latent_channels = weight.shape[1] // shuffle**2
        if shuffle > 1:
            if not hasattr(super(), "latent_rgb_factors_reshape"):
                return  # this ComfyUI cannot preview such latents
            self.latent_rgb_factors_reshape = functools.partial(F.pixel_unshuffle, downscale_factor=shuffle)
        self.latent_rgb_factors = weight.reshape(3, PATCH * PATCH, -1).mean(1).T.tolist()
        self.latent_rgb_factors_bias = bias.reshape(3, PATCH * PATCH).mean(1).tolist()


class DemoConfig(comfy.supported_models_base.BASE):
    """The description that core's loader derives from a checkpoint."""

    unet_extra_config = {}
    sampling_settings = SAMPLING_SETTINGS
    memory_usage_factor = 0.5  # SD1.5 has 1.0 and levels 2.5 times as wide

    def __init__(self, weights: DemoWeights):
        super().__init__(core_unet_config(weights.sizes))
        self.latent_format = DemoLatents(weights.vae, weights.sizes.shuffle)
        self.shuffle = weights.sizes.shuffle
        self.image_size, self.step = weights.sizes.image_size, weights.sizes.downscale

    def model_type(self, state_dict, prefix=""):
        return comfy.model_base.ModelType.V_PREDICTION

    def get_model(self, state_dict, prefix="", device=None):
        unet = ShuffledUNet if self.shuffle > 1 else UNetModel
        return comfy.model_base.BaseModel(self, self.model_type(state_dict), device=device, unet_model=unet)

    def inpaint_model(self) -> bool:
        return False  # BASE infers a mask from more than four channels


def build_model(weights: DemoWeights, dtype: torch.dtype | None = None) -> comfy.model_patcher.ModelPatcher:
    """The U-Net in a ModelPatcher; ComfyUI chooses the dtype unless one is given."""
    management = comfy.model_management
    config = DemoConfig(weights)
    device, offload = management.get_torch_device(), management.unet_offload_device()
    supported = list(config.supported_inference_dtypes)
    parameters = sum(tensor.numel() for tensor in weights.unet.values())
    dtype = dtype or management.unet_dtype(
        model_params=parameters, supported_dtypes=supported, weight_dtype=torch.float16
    )
    config.set_inference_dtype(dtype, management.unet_manual_cast(dtype, device, supported))
    model = config.get_model(weights.unet, device=offload)
    names = comfy.utils.unet_to_diffusers(config.unet_config)
    renamed = {names.get(name, name): tensor for name, tensor in weights.unet.items()}
    _fill(model.diffusion_model, renamed, "U-Net")
    model.to(offload)
    patcher = Patcher(model, load_device=device, offload_device=offload)
    if config.shuffle > 1:
        patcher.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "facecdm_demo", align_areas)
    return patcher


def build_clip(weights: DemoWeights, dtype: torch.dtype | None = None) -> comfy.sd.CLIP:
    """A CLIP with the tokenizer's whole vocabulary; words that no caption used share the row of the unknown word."""
    import folder_paths

    config = weights.sizes.clip.text_config() | {"vocab_size": FULL_VOCABULARY}
    target = comfy.supported_models_base.ClipTarget(
        _tokenizer(weights.sizes.clip),
        functools.partial(
            comfy.sd1_clip.SD1ClipModel,
            clip_model=functools.partial(comfy.sd1_clip.SDClipModel, textmodel_json_config=config),
        ),
    )
    parameters = sum(tensor.numel() for tensor in weights.text.values())
    clip = comfy.sd.CLIP(
        target,
        embedding_directory=folder_paths.get_folder_paths("embeddings"),
        parameters=parameters,
        model_options={"dtype": dtype} if dtype else {},
    )
    table = "text_model.embeddings.token_embedding.weight"
    if table not in weights.text or len(weights.text[table]) != len(weights.vocabulary):
        raise BadFile("the demo model's text tower and vocabulary differ in size; clone the pack again")
    whole = weights.text | {table: weights.vocabulary.expand(weights.text[table])}
    _fill(clip.cond_stage_model.clip_l.transformer, whole, "text tower")
    clip.tokenizer.vocabulary = weights.vocabulary
    return clip


def _tokenizer(sizes: ClipSizes):
    words = functools.partial(comfy.sd1_clip.SDTokenizer, embedding_size=sizes.width)
    return functools.partial(DemoTokenizer, tokenizer=words)


class DemoVAE(comfy.sd.VAE):
    """Core's VAE around our autoencoder; core handles batches, tiles, device and memory."""

    def __init__(self, weights: DemoWeights, dtype: torch.dtype | None = None):
        management = comfy.model_management
        with _no_warnings():  # core sets all its attributes, then warns of missing weights
            super().__init__(sd={})
        sizes = weights.sizes
        self.latent_channels = sizes.latent_channels // sizes.shuffle**2
        self.multiple = sizes.downscale
        self.working_dtypes = [torch.float16, torch.bfloat16, torch.float32]
        widest = 3 * 8**2  # values per latent position in the widest layer
        self.memory_used_encode = lambda shape, dtype: 8 * shape[2] * shape[3] * management.dtype_size(dtype)
        self.memory_used_decode = lambda shape, dtype: 3 * widest * shape[2] * shape[3] * management.dtype_size(dtype)
        autoencoder = build_autoencoder(sizes)
        _fill(autoencoder, weights.vae, "autoencoder")
        self.first_stage_model = ShuffledAutoencoder(autoencoder, sizes.shuffle) if sizes.shuffle > 1 else autoencoder
        self.first_stage_model.eval().requires_grad_(False)
        self.device = management.vae_device()
        self.vae_dtype = dtype or management.vae_dtype(self.device, self.working_dtypes)
        self.first_stage_model.to(self.vae_dtype)
        self.output_device = management.intermediate_device()
        self.patcher = Patcher(
            self.first_stage_model, load_device=self.device, offload_device=management.vae_offload_device()
        )
        self.size = None
        self.model_size()

    def vae_encode_crop_pixels(self, pixels: Tensor) -> Tensor:
        """Centre-crop IMAGE [B, H, W, C] to multiples of the pixels that one position of the U-Net covers."""
        for axis in (1, 2):
            left = pixels.shape[axis] % self.multiple
            pixels = pixels.narrow(axis, left // 2, pixels.shape[axis] - left)
        return pixels


def build_vae(weights: DemoWeights, dtype: torch.dtype | None = None) -> comfy.sd.VAE:
    return DemoVAE(weights, dtype)


@contextmanager
def _no_warnings():
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def build_clip_vision(weights: DemoWeights) -> comfy.clip_vision.ClipVisionModel:
    """Build the CLIP_VISION. Core's constructor reads the configuration from a file, here a temporary one."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(json.dumps(weights.sizes.clip.vision_config()))
        vision = comfy.clip_vision.ClipVisionModel(str(file))
    _fill(vision.model, weights.vision, "vision tower")
    return vision


def _fill(module: nn.Module, state: dict[str, Tensor], part: str) -> None:
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise BadFile(
            f"the shapes of the demo model's {part} differ from its configuration; clone the "
            f"pack again ({str(error).splitlines()[-1].strip()})"
        ) from error
