"""The `Denoiser` of a diffusers U-Net: the demo model's, or that of a Stable Diffusion 1.5 or XL folder."""

from pathlib import Path

import torch
from torch import Tensor, nn

from ...adapter.attention import LayerStream
from ...devices import check_device
from ...errors import BadFile, MissingModel
from ...saved_folder import open_model, open_part
from ...training.denoiser import Watch, digest_of
from ...training.rows import Prompt
from .frozen import FrozenModel
from .sampling import DiffusersHost
from .vae import open_vae


class DiffusersDenoiser(FrozenModel):
    """See `training.denoiser.Denoiser`. `decoder` maps the U-Net's latents to pixels in −1…1."""

    def __init__(
        self,
        unet: nn.Module,
        decoder: nn.Module,
        signal: Tensor,
        noise: Tensor,
        prediction: str,
        control: nn.Module | None = None,
    ):
        self.host = DiffusersHost(unet)
        super().__init__(unet, decoder, self.host.layer_map, signal, noise)
        self._control, self.prediction = control, prediction
        self._control_learns = False

    @property
    def control_fingerprint(self) -> str:
        return "" if self._control is None else digest_of("control", self._control.state_dict().values())

    def predict(
        self,
        noisy: Tensor,
        t: Tensor,
        prompt: Prompt,
        people: list[list[LayerStream]] | None = None,
        control: Tensor | None = None,
        watch: Watch | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        added, residuals = {}, {}
        rows = len(noisy)
        states = prompt.states.expand(rows, -1, -1).to(self.dtype)
        if prompt.pooled is not None:
            added = {
                "added_cond_kwargs": {
                    "text_embeds": prompt.pooled.expand(rows, -1).to(self.dtype),
                    "time_ids": prompt.sizes.expand(rows, -1).to(self.dtype),
                }
            }
        with torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None):
            if control is not None and self._control is not None:
                with torch.set_grad_enabled(self._control_learns and torch.is_grad_enabled()):
                    context = self.control_context(states, people)
                    down, middle = self._control(
                        noisy.to(self.dtype), t, context, control.to(self.dtype), **added, return_dict=False
                    )
                residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
            return self.network(
                noisy.to(self.dtype),
                t,
                states,
                cross_attention_kwargs={"people": people, "watch": watch},
                **added,
                **residuals,
            ).sample.float()

    def control_context(self, states: Tensor, people: list[list[LayerStream]] | None) -> Tensor:
        """What the ControlNet's cross-attention reads [B, N, context]: the prompt's states."""
        return states

    def linears(self) -> dict[str, nn.Linear]:
        return {
            f"lora_unet_{name.replace('.', '_')}": module
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and ".attn" in name
        }

    def layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        return {
            f"lora_unet_{name.replace('.', '_')}": module
            for name, module in self.network.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d)) and name.startswith(("down_", "mid_", "up_"))
        }

    def control_layers(self) -> dict[str, nn.Linear | nn.Conv2d]:
        from ...demo.pose_net import PoseNet, core_name

        net = self._control.encoder if isinstance(self._control, PoseNet) else self._control
        if not hasattr(net, "controlnet_down_blocks"):
            return {}
        blocks = net.config.layers_per_block
        blocks = (blocks,) * len(net.config.block_out_channels) if isinstance(blocks, int) else tuple(blocks)
        return {
            f"control_model.{core_name(name, blocks)}": module
            for name, module in net.named_modules()
            if isinstance(module, (nn.Linear, nn.Conv2d)) and name.startswith(("down_", "mid_"))
        }

    def learn_control(self, on: bool) -> None:
        self._control_learns = on

    def text_keys_values(self):
        return self.host.text_keys_values()

    def checkpoint(self, on: bool) -> None:
        if on:
            self.network.train()  # diffusers checkpoints only in training mode; these U-Nets have no dropout
            self.network.enable_gradient_checkpointing()
        else:
            self.network.disable_gradient_checkpointing()
            self.network.eval()


def open_base(base: str, device: str, control: Path | None = None) -> DiffusersDenoiser:
    """The denoiser of a base model.

    base     "demo", or a folder that diffusers saved
    control  its pose ControlNet: such a folder; for the demo model "demo" or a file

    Raises MissingModel, BadFile, FaceCDMError.
    """
    from ...demo.paths import POSE_CONTROLNET, in_use
    from .dit_denoiser import dit_denoiser

    check_device(device)
    if base == "demo":
        return demo_denoiser(device=device, pose=in_use(POSE_CONTROLNET) if str(control) == "demo" else control)
    if (Path(base) / "transformer").is_dir():
        return dit_denoiser(Path(base), device, control)
    return folder_denoiser(Path(base), device, control=control)


def demo_denoiser(
    weights=None, device: str = "cpu", pose: Path | None = None, kind: type[DiffusersDenoiser] = DiffusersDenoiser
) -> DiffusersDenoiser:
    """The denoiser of the demo model, in float32.

    weights  DemoWeights; None reads the packaged ones
    pose     file of its pose ControlNet
    kind     the class that is made
    """
    from ...demo import pose_net, schedule
    from ...demo import weights as demo
    from ...demo.autoencoder import build_autoencoder
    from ...demo.unet import build_unet

    weights = weights or demo.read()
    unet, autoencoder = build_unet(weights.sizes.unet_config()), build_autoencoder(weights.sizes)
    try:
        unet.load_state_dict({name: value.float() for name, value in weights.unet.items()})
        autoencoder.load_state_dict({name: value.float() for name, value in weights.vae.items()})
    except RuntimeError as error:
        raise BadFile(
            f"the demo model's weights do not match their configuration; clone the pack again ({str(error)[:200]})"
        ) from error
    signal, noise = schedule.signal_and_noise()
    unet = unet.to(device, memory_format=torch.channels_last)
    control = pose_net.read(pose, unet) if pose is not None else None
    return kind(unet, _DemoDecoder(autoencoder.to(device)), signal, noise, "v", control)


class _DemoDecoder(nn.Module):
    def __init__(self, autoencoder: nn.Module):
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, latents: Tensor) -> Tensor:
        return self.autoencoder.decode(latents)


def folder_denoiser(
    folder: Path, device: str = "cpu", dtype: torch.dtype = torch.float32, control: Path | None = None
) -> DiffusersDenoiser:
    """The denoiser of a folder that diffusers saved (unet/, vae/, scheduler/), and of a ControlNet's folder `control`.

    Nothing is downloaded; weights are read from safetensors only. Raises MissingModel if a part is missing, BadFile.
    """
    from diffusers import ControlNetModel, DDPMScheduler, UNet2DConditionModel

    for part in ("unet", "vae", "scheduler"):
        if not (folder / part).is_dir():
            raise MissingModel(
                f"{folder} has no {part}/: give a folder that diffusers' save_pretrained wrote, with unet, vae, "
                "scheduler, text encoder and tokenizer"
            )
    unet = open_model(UNet2DConditionModel, folder / "unet", dtype).to(device)
    vae = open_vae(folder / "vae", device, torch.float32)
    scheduler = open_part(DDPMScheduler, folder / "scheduler")
    net = open_model(ControlNetModel, control, dtype).to(device) if control else None
    signal = scheduler.alphas_cumprod.sqrt()
    kind = "v" if scheduler.config.prediction_type == "v_prediction" else "epsilon"
    return DiffusersDenoiser(unet, vae, signal, (1 - signal**2).sqrt(), kind, net)
