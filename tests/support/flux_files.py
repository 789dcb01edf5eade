"""Small files of everything that the workflows on FLUX.1 load, with the published files' keys and names."""

import shutil
from dataclasses import replace
from pathlib import Path

import flux
import torch
from flux_comfy import CONTEXT
from flux_twins import make_control_twins
from published_flux import SMALL_FLUX, infiniteyou, instantx, pulid_flux, state_of, withanyone
from safetensors.torch import save_file
from torch import nn

HEADS = 16  # of SigLIP's pooling
SIZES = replace(SMALL_FLUX, states=64, siglip=48, so400m=48)
SIGLIP = dict(hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=28)
SIGLIP_CONFIG = SIGLIP | dict(
    model_type="siglip_vision_model",
    patch_size=14,
    num_channels=3,
    hidden_act="gelu_pytorch_tanh",
    image_mean=[0.5] * 3,
    image_std=[0.5] * 3,
)


class SmallRecogniser(nn.Sequential):
    """In place of facexlib's recogniser, which has 44 million parameters."""

    def __init__(self):
        super().__init__(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 512))


def write_base(models: Path) -> None:
    """The transformer and a VAE; the text encoders are `flux_comfy.make_clip`."""
    from comfy.taesd.taesd import TAESD

    torch.manual_seed(0)
    save(models / "diffusion_models/flux1-dev.safetensors", flux.make_flux().model.diffusion_model.state_dict())
    vae = TAESD(latent_channels=16).state_dict()
    scaled = {key: value if value.ndim == 0 else _normal(value.shape) for key, value in vae.items()}
    save(models / "vae/ae.safetensors", scaled)
    for name in ("clip_l", "t5xxl_fp16"):
        save(models / f"text_encoders/{name}.safetensors", {"unread": torch.zeros(1)})


def _normal(shape: torch.Size) -> torch.Tensor:
    return torch.randn(shape) * (shape[1:].numel() ** -0.5 if len(shape) > 1 else 0.1)


def write_adapters(models: Path) -> None:
    blocks = flux.SMALL["depth"] + flux.SMALL["depth_single_blocks"]
    save(models / "pulid/pulid_flux_v0.9.1.safetensors", state_of(pulid_flux(SIZES, 4)))
    save(models / "ipadapter/withanyone.safetensors", state_of(withanyone(SIZES, blocks)))
    save(models / "ipadapter/infiniteyou_aes_stage2.bin", nested(state_of(infiniteyou(CONTEXT, 128))))
    save(models / "ipadapter/instantx-flux-ip-adapter.bin", nested(state_of(instantx(SIZES, blocks))))
    save(models / "controlnet/infusenet_aes_bf16.safetensors", make_control_twins(CONTEXT)[1].state_dict())


def nested(state: dict) -> dict:
    """The tensors by the first part of their keys, as in .bin files."""
    parts = {key.partition(".")[0]: {} for key in state}
    for key, value in state.items():
        part, _, rest = key.partition(".")
        parts[part][rest] = value
    return parts


def write_towers(models: Path) -> None:
    from transformers import SiglipVisionConfig, SiglipVisionModel

    from facecdm.formats import eva

    torch.manual_seed(0)
    siglip = SiglipVisionModel(SiglipVisionConfig(**SIGLIP, patch_size=14))
    state = {f"vision_model.{key.removeprefix('vision_model.')}": value for key, value in siglip.state_dict().items()}
    for name in ("siglip-base-patch16-256-i18n", "sigclip_vision_patch14_384"):
        save(models / f"clip_vision/{name}.safetensors", state)
    tower = eva.EvaTower(eva.EvaSizes(image=28, width=64, heads=1, hidden=40, depth=21))
    state = {f"visual.{key}": _normal(value.shape) for key, value in tower.state_dict().items()}
    save(models / f"clip_vision/{eva.FILE}", state)


def write_face_packs(models: Path, buffalo: Path) -> None:
    """antelopev2 of another pack's networks; facexlib's recogniser beside it."""
    packs = models / "insightface" / "models"
    for name, source in (("scrfd_10g_bnkps", "det_500m"), ("glintr100", "w600k_mbf")):
        path = packs / "antelopev2" / f"{name}.onnx"
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(buffalo / f"{source}.onnx", path)
    save(packs / "arcface_ir_se50/recognition_arcface_ir_se50.pth", SmallRecogniser().state_dict())


def save(path: Path, state: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file({key: value.contiguous() for key, value in state.items()}, path)
    else:
        torch.save(state, path)
