"""The `Denoiser` of a DiT of diffusers: that of a Flux.1, Chroma or SD3.5 folder."""

import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...adapter.attention import LayerStream
from ...bases.flux import FLUX as BASE  # whose pictures and tokens have the sizes of all KINDS
from ...bases.noise import Flow
from ...errors import FaceCDMError, MissingModel, UnsupportedModel
from ...saved_folder import class_name, open_model, open_part
from ...training.blocks import Block, TokenCounts, hooked
from ...training.denoiser import NO_MASK, Watch
from ...training.randomness import STEPS
from ...training.repeated import Repeated
from ...training.rows import Prompt
from .dit import layer_map
from .frozen import FrozenModel, VaeDecoder

PATCH = BASE.patch
FLUX, CHROMA, SD3 = "FluxTransformer2DModel", "ChromaTransformer2DModel", "SD3Transformer2DModel"
KINDS = (FLUX, CHROMA, SD3)


class DiffusersDitDenoiser(FrozenModel):
    """See `training.denoiser.Denoiser`.

    transformer  one of KINDS
    decoder      maps latents to pixels in −1…1
    noise        [steps] the times of the flow, rising
    """

    prediction = "flow"
    stride = PATCH

    def __init__(self, transformer: nn.Module, decoder: nn.Module, noise: Tensor):
        super().__init__(transformer, decoder, layer_map(transformer), 1 - noise, noise)
        self._kind = type(transformer).__name__
        self.distilled = self._kind == FLUX
        self._blocks = _blocks(transformer)
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
        if height % PATCH or width % PATCH:
            raise FaceCDMError(
                f"latents of {width} × {height} do not divide into tokens: prepare the data set with a step of "
                f"{BASE.step} pixels"
            )
        grid = height // PATCH, width // PATCH
        text = prompt.states.expand(rows, -1, -1).to(self.dtype)
        counts = TokenCounts(text.shape[1], grid[0] * grid[1])
        latents, level = noisy.to(self.dtype), self.noise.to(self.device)[t]
        more = self._conditioning(prompt, rows, counts, guidance)
        with (
            torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None),
            hooked(self._blocks, counts, people, watch, self._repeats is not None),
        ):
            if self._kind == SD3:
                return self.network(latents, text, timestep=1000 * level, return_dict=False, **more)[0].float()
            (out,) = self.network(
                F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2),
                text,
                timestep=level,
                img_ids=self._positions(grid),
                txt_ids=torch.zeros(text.shape[1], 3, device=self.device),
                return_dict=False,
                **more,
            )
        return F.pixel_shuffle(out.transpose(1, 2).unflatten(2, grid), PATCH).float()

    def _positions(self, grid: tuple[int, int]) -> Tensor:
        """The position [rows × columns, 3] of each token of the picture."""
        ids = torch.zeros(*grid, 3, device=self.device)
        ids[..., 1] = torch.arange(grid[0], device=self.device)[:, None]
        ids[..., 2] = torch.arange(grid[1], device=self.device)
        return ids.flatten(0, 1)

    def _conditioning(self, prompt: Prompt, rows: int, counts: TokenCounts, guidance: float) -> dict:
        """The other arguments of the transformer."""
        mask = prompt.mask
        if mask is not None and self._kind == SD3:
            raise FaceCDMError(NO_MASK)
        if mask is not None:
            shown = torch.ones(len(mask), counts.picture, dtype=torch.bool, device=mask.device)
            mask = torch.cat([mask, shown], 1).expand(rows, -1).to(self.device)
        if self._kind == CHROMA:
            return {} if mask is None else {"attention_mask": mask}
        if prompt.pooled is None:
            raise FaceCDMError(
                "the data set has no pooled states of the prompts: prepare it with the folder of this base model"
            )
        more = {"pooled_projections": prompt.pooled.expand(rows, -1).to(self.dtype)}
        if self._kind == FLUX and self.network.config.guidance_embeds:
            more["guidance"] = torch.full((rows,), guidance, device=self.device)
        if mask is not None:
            more["joint_attention_kwargs"] = {"attention_mask": mask[:, None, None]}
        return more

    def linears(self) -> dict[str, nn.Linear]:
        return {name: layer for name, layer in self.layers().items() if ".attn." in name}

    def layers(self) -> dict[str, nn.Linear]:
        return {
            f"transformer.{name}": module
            for name, module in self.network.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(("transformer_blocks.", "single_transformer_blocks."))
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


def _blocks(transformer: nn.Module) -> list[Block]:
    def own(output: Tensor, text: int) -> Tensor:
        return output.flatten(2)  # [B, N, H, D]

    heads = transformer.config.num_attention_heads
    found = [
        # SD3 does not normalise them.
        Block(
            block,
            heads,
            1,
            (block.attn.norm_q or block.attn.to_q, own),
            (block.attn.norm_added_k or block.attn.add_k_proj, own),
        )
        for block in transformer.transformer_blocks
    ]
    return found + [
        Block(
            block,
            heads,
            None if type(transformer).__name__ == CHROMA else 1,
            (block.attn.norm_q, lambda output, text: own(output[:, text:], text)),
            (block.attn.norm_k, lambda output, text: own(output[:, :text], text)),
        )
        for block in getattr(transformer, "single_transformer_blocks", ())
    ]


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
    model = open_model(getattr(diffusers, kind), folder / "transformer", dtype)
    vae = open_model(diffusers.AutoencoderKL, folder / "vae", torch.float32)
    scheduler = open_part(diffusers.FlowMatchEulerDiscreteScheduler, folder / "scheduler")
    return DiffusersDitDenoiser(model.to(device), VaeDecoder(vae.to(device)), _times(scheduler.config))


def _times(config) -> Tensor:
    """STEPS times of the flow: even ones, shifted as the scheduler shifts those of a picture of the base's own size."""
    shift = math.log(config.shift)
    if config.use_dynamic_shifting:
        ends = (config.base_image_seq_len, config.max_image_seq_len), (config.base_shift, config.max_shift)
        shift = Flow(*ends).shift((BASE.resolution // BASE.step) ** 2)
    return Flow().time(torch.arange(1, STEPS + 1) / STEPS, shift)
