"""The models of a training run as ComfyUI has loaded them, the same for U-Nets and DiTs."""

import comfy.ldm.modules.diffusionmodules.model as autoencoder
import comfy.model_management
import torch
from torch import Tensor, nn

from ....bases import name_of
from ....errors import FaceCDMError
from ....training.denoiser import digest_of
from ....training.repeated import Repeated
from ..base_model import layer_map
from ..latents import with_frames, without_frames
from .dynamic import static_control, static_patcher
from .gradients import Recast, leave_inference


class LoadedModel:
    """What the `Denoiser`s of a MODEL share. They define `signal`, `noise`, `prediction`, and call this constructor."""

    distilled = False
    prediction: str
    signal: Tensor
    noise: Tensor

    def __init__(self, model, vae=None, control=None, dtype: torch.dtype | None = None):
        self.layer_map = layer_map(model)
        self.device = torch.device(model.load_device)
        self.dtype = dtype or natural_dtype(model)
        self.model = static_patcher(model).clone()
        self._vae, self._vae_patcher = vae, static_patcher(vae.patcher) if vae is not None else None
        self._control = static_control(control) if control is not None else None
        self._percent_to_sigma = model.get_model_object("model_sampling").percent_to_sigma
        self._repeats: Repeated | None = None
        self._recast: Recast | None = None
        self._control_learns = False
        self.prepare()

    def prepare(self) -> None:
        """Have ComfyUI load the models, and enable gradients through them."""
        if torch.is_inference_mode_enabled():
            raise RuntimeError("training on a MODEL works outside of torch.inference_mode only")
        self._undo_recast()
        models = [
            self.model,
            *([self._vae_patcher] if self._vae is not None else []),
            *(self._control.get_models() if self._control is not None else []),
        ]
        comfy.model_management.load_models_gpu(models, memory_required=1e20, force_full_load=True)
        for patcher in models:
            leave_inference(patcher.model)
        if self._control is not None:
            self._control.pre_run(self.model.model, self._percent_to_sigma)
            if (net := getattr(self._control, "control_model", None)) is not None:
                leave_inference(net)  # a control-LoRA creates it in pre_run
        self.compute_in(self.dtype)  # last, so that a MODEL is not left changed where something above fails

    def compute_in(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self._undo_recast()
        self._recast = Recast(self.network, dtype)

    def close(self) -> None:
        """Restore the models."""
        self.checkpoint(False)
        self._undo_recast()
        if self._control is not None:
            self._control.cleanup()

    def __enter__(self) -> "LoadedModel":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def _undo_recast(self) -> None:
        if self._recast is not None:
            self._recast.undo()
            self._recast = None

    @property
    def fingerprint(self) -> str:
        """A hash of the base model's family, schedule and a sample of every weight, LoRA patches included."""
        return digest_of(f"{name_of(self.layer_map)} {self.prediction}", (self.signal, *self.network.parameters()))

    @property
    def control_fingerprint(self) -> str:
        """A hash of the ControlNet's weights. For a control-LoRA, its own weights: it has no model before it runs."""
        lora, model = (getattr(self._control, name, None) for name in ("control_weights", "control_model"))
        found = lora or ({} if model is None else model.state_dict())
        return digest_of("control", found.values()) if self._control is not None else ""

    @property
    def can_decode(self) -> bool:
        return self._vae is not None

    @property
    def network(self) -> nn.Module:
        """The MODEL's U-Net or DiT."""
        return self.model.model.diffusion_model

    def decode(self, latents: Tensor) -> Tensor:
        if self._vae is None:
            raise FaceCDMError("a loss needs decoded pictures: connect a VAE")
        latent_format = self.model.model.latent_format
        latents = latent_format.process_out(with_frames(latents, latent_format))
        decoded = self._vae_patcher.model.decode(latents.to(self._vae.device, self._vae.vae_dtype))
        pixels = without_frames(decoded).float()
        centred = float(self._vae.process_output(torch.zeros(1))) > 0  # so −1…1 becomes 0…1
        return pixels if centred else pixels * 2 - 1

    def control_layers(self) -> dict[str, nn.Module]:
        net = getattr(self._control, "control_model", None)
        if net is None:
            return {}
        return {
            f"control_model.{name}": module
            for name, module in net.named_modules()
            if type(module).__name__ in ("Linear", "Conv2d")
            and name.startswith(("input_blocks.", "middle_block."))
            and name != "input_blocks.0.0"
        }

    def learn_control(self, on: bool) -> None:
        self._control_learns = on

    def checkpoint(self, on: bool) -> None:
        if self._repeats is not None:
            self._repeats.undo()
            self._repeats = None
        if on:
            modules = self._repeated()
            if self._vae is not None:
                modules += modules_of(self._vae_patcher.model, autoencoder.ResnetBlock, autoencoder.AttnBlock)
            self._repeats = Repeated(modules)

    def _repeated(self) -> list[nn.Module]:
        """The modules of the network whose activations gradient checkpointing does not keep."""
        raise NotImplementedError


def natural_dtype(model) -> torch.dtype:
    """The dtype that a MODEL computes in; fp16 is replaced by bf16 if the device is fast in bf16, else by fp32."""
    dtype = model.get_model_object("manual_cast_dtype") or model.model_dtype()
    if dtype in (torch.float32, torch.bfloat16):
        return dtype
    wide = comfy.model_management.should_use_bf16(model.load_device)
    return torch.bfloat16 if wide else torch.float32


def all_rows(value: Tensor, rows: int) -> Tensor:
    return value if len(value) == rows else value.expand(rows, *value.shape[1:])


def modules_of(module: nn.Module, *kinds: type) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, kinds)]
