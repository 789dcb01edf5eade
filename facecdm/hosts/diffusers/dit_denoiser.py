"""The `Denoiser` of a DiT of diffusers: that of a folder of Flux.1, Chroma, SD3.5, Qwen-Image or Z-Image."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn

from ...adapter.attention import LayerStream
from ...bases.base import LATENT_PIXELS, Base
from ...bases.noise import Flow
from ...errors import FaceCDMError, MissingModel, UnsupportedModel
from ...saved_folder import class_name, open_model, open_part
from ...training.blocks import hooked
from ...training.denoiser import Watch
from ...training.randomness import STEPS
from ...training.repeated import Repeated
from ...training.rows import Prompt
from .dit import layer_map
from .dit_kinds import KINDS, Call
from .frozen import FrozenModel
from .vae import open_vae


class DiffusersDitDenoiser(FrozenModel):
    """See `training.denoiser.Denoiser`.

    transformer  of a class in KINDS
    decoder      maps latents to pixels in −1…1
    noise        [steps] the times of the flow, rising
    """

    prediction = "flow"

    def __init__(self, transformer: nn.Module, decoder: nn.Module, noise: Tensor):
        super().__init__(transformer, decoder, layer_map(transformer), 1 - noise, noise)
        self._kind = KINDS[type(transformer).__name__]
        self.distilled, self.stride = self._kind.distilled, self._kind.base.patch
        self._blocks = self._kind.blocks(transformer)
        self._repeats: Repeated | None = None

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
        rows, _, height, width = noisy.shape
        if height % self.stride or width % self.stride:
            raise FaceCDMError(
                f"latents of {width} × {height} do not divide into tokens: prepare the data set with a step of "
                f"{self._kind.base.step} pixels"
            )
        text = prompt.states.expand(rows, -1, -1).to(self.dtype)
        call = Call(noisy.to(self.dtype), self.noise.to(self.device)[t], text, prompt, guidance)
        counts = self._kind.counts(text.shape[1], call.count)
        with (
            torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None),
            hooked(self._blocks, counts, people, watch, self._repeats is not None),
        ):
            return self._kind.velocity(self.network, call).float()

    def linears(self) -> dict[str, nn.Linear]:
        parts = (".attn.", ".attention.")
        return {name: layer for name, layer in self.layers().items() if any(part in name for part in parts)}

    def layers(self) -> dict[str, nn.Linear]:
        return {
            f"{self._kind.lora}{name}": module
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear)
            and name.startswith(("transformer_blocks.", "single_transformer_blocks.", "layers."))
        }

    def control_layers(self) -> dict[str, nn.Module]:
        return {}

    def learn_control(self, on: bool) -> None:
        """Do nothing: a DiT is trained without a ControlNet."""

    def text_keys_values(self) -> tuple:
        return ()

    def checkpoint(self, on: bool) -> None:
        if self._repeats is not None:
            self._repeats.undo()
            self._repeats = None
        if on:
            self._repeats = Repeated([block.module for block in self._blocks])


def dit_denoiser(folder: Path, device: str = "cpu", control: Path | None = None) -> DiffusersDitDenoiser:
    """The denoiser of a folder that diffusers saved (transformer/, vae/, scheduler/).

    On a GPU the transformer's weights are bf16, elsewhere float32. Nothing is downloaded; weights are read from
    safetensors only. Raises MissingModel if a part is missing, BadFile, UnsupportedModel.
    """
    import diffusers

    if control is not None:
        raise UnsupportedModel("a DiT is trained without a ControlNet: leave control out")
    for part in ("transformer", "vae", "scheduler"):
        if not (folder / part).is_dir():
            raise MissingModel(
                f"{folder} has no {part}/: give a folder that diffusers' save_pretrained wrote, with transformer, vae, "
                "scheduler, text encoders and tokenizers"
            )
    dtype = torch.bfloat16 if torch.device(device).type == "cuda" else torch.float32
    kind = class_name(folder / "transformer")
    if kind not in KINDS:
        raise UnsupportedModel(f"{folder} holds a {kind}; FaceCDM trains {', '.join(KINDS)}")
    if not hasattr(diffusers, kind):
        raise UnsupportedModel(f"diffusers {diffusers.__version__} has no {kind}: update diffusers")
    model = open_model(getattr(diffusers, kind), folder / "transformer", dtype).to(device)
    vae = open_vae(folder / "vae", device, torch.float32)
    scheduler = open_part(diffusers.FlowMatchEulerDiscreteScheduler, folder / "scheduler")
    return DiffusersDitDenoiser(model, vae, _times(scheduler.config, KINDS[kind].base))


def _times(config, base: Base) -> Tensor:
    """STEPS times of the flow: even ones, shifted as the scheduler shifts those of a picture of the base's own size."""
    shift = math.log(config.shift)
    if config.use_dynamic_shifting:
        ends = (config.base_image_seq_len, config.max_image_seq_len), (config.base_shift, config.max_shift)
        shift = Flow(*ends).shift((base.resolution // (LATENT_PIXELS * base.patch)) ** 2)
    return Flow().time(torch.arange(1, STEPS + 1) / STEPS, shift)
