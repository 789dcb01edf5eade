"""Training on a ComfyUI MODEL that is a DiT."""

from collections.abc import Callable

import comfy.model_base
import comfy.model_management
import comfy.model_sampling
import comfy.utils
import torch
from torch import Tensor, nn

from ....adapter.attention import LayerStream
from ....bases.grid import token_grid
from ....bases.z_image import padded
from ....errors import FaceCDMError, UnsupportedModel
from ....training.blocks import TokenCounts, hooked
from ....training.denoiser import Watch
from ....training.randomness import STEPS
from ....training.rows import Prompt
from ..dit import check_trainable, is_sd3, is_z_image, reads_pooled
from ..latents import with_frames, without_frames
from .dit_blocks import blocks_of
from .gradients import OutOfPlace, attention_with_gradients, masked_attention
from .loaded import LoadedModel, all_rows


class ComfyDitDenoiser(LoadedModel):
    """A `Denoiser` that computes with the MODEL's own DiT, LoRA patches included, and restores it on `close`.

    The noise levels are those of the MODEL's schedule, with its shift. Attention patches of the MODEL are not used.
    The arguments are those of ComfyDenoiser; a ControlNet is refused.
    """

    prediction = "flow"

    def __init__(self, model, vae=None, control=None, dtype: torch.dtype | None = None):
        if control is not None:
            raise UnsupportedModel(
                "a DiT is trained without a ControlNet: disconnect control_net; the adapter is conditioned on the "
                "data set's key points without it"
            )
        check_trainable(model)
        self._sampling = model.get_model_object("model_sampling")
        self.noise = _noise_levels(self._sampling)
        self.signal = 1 - self.noise
        super().__init__(model, vae, None, dtype)
        # Newer ComfyUI then computes with operations that have a backward pass.
        self._in_training = getattr(comfy.model_management, "in_training", False)
        comfy.model_management.in_training = True
        base = self.model.model
        flux = isinstance(base, comfy.model_base.Flux)
        self.distilled = flux and not isinstance(base, comfy.model_base.Chroma)
        self.stride = self.network.patch_size
        self._blocks = blocks_of(self.network)

    def close(self) -> None:
        super().close()
        comfy.model_management.in_training = self._in_training

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
        x, text = noisy.to(self.device, self.dtype), prompt.states.to(self.device, self.dtype)
        rows, columns = token_grid(*x.shape[-2:], self.network.patch_size)
        start = padded(text.shape[1]) if is_z_image(self.network) else text.shape[1]
        counts = TokenCounts(text.shape[1], rows * columns, start)
        level = self.noise.to(self.device)[t.to(self.device)]
        x = with_frames(x, self.model.model.latent_format)
        more = self._conditioning(x, text, prompt, guidance)
        options = {"optimized_attention_override": self._attention(prompt, counts)}
        if torch.is_grad_enabled():
            x, text = x.as_subclass(OutOfPlace), text.as_subclass(OutOfPlace)
        time = self.model.model.process_timestep(self._sampling.timestep(level).float(), x=x, **more)
        with hooked(self._blocks, counts, people, watch, self._repeats is not None):
            out = self.network(x, time, context=all_rows(text, len(x)), transformer_options=options, **more)
        return without_frames(out.as_subclass(Tensor)).float()

    def _conditioning(self, x: Tensor, text: Tensor, prompt: Prompt, guidance: float) -> dict:
        """The model's other arguments, made by ComfyUI for its own sampling."""
        given = {"guidance": guidance} if self.distilled else {}
        made = self.model.model.extra_conds(
            cross_attn=text, pooled_output=prompt.pooled, noise=x, device=self.device, **given
        )
        if "c_concat" in made:
            raise UnsupportedModel(
                "this MODEL takes a mask or a picture beside the latents (Fill, Depth, Canny, …): train on the plain "
                "model of its family"
            )
        made.pop("c_crossattn")
        if reads_pooled(self.network) and "y" not in made:
            raise FaceCDMError("the data set has no pooled states of the prompts: prepare it with this MODEL's CLIP")
        values = {name: value.cond for name, value in made.items()}
        return {
            name: comfy.utils.repeat_to_batch_size(value, len(x)).to(self.device, self.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in values.items()
        }

    def _attention(self, prompt: Prompt, counts: TokenCounts) -> Callable:
        """The attention of the blocks; it masks the padding of shorter prompts."""
        if is_sd3(self.network):
            prompt.check_one_length("SD3.5")
        if is_z_image(self.network):  # its positions depend on the prompt's length
            prompt.check_one_length("Z-Image in ComfyUI")
        mask = prompt.mask
        if mask is None:
            return attention_with_gradients
        shown = torch.ones(len(mask), counts.picture, dtype=torch.bool, device=mask.device)
        return masked_attention(torch.cat([mask, shown], 1)[:, None].to(self.device))

    def linears(self) -> dict[str, nn.Linear]:
        # A single block has attention and MLP in one layer.
        kinds = (".img_attn.", ".txt_attn.", ".single_blocks.", ".attn.", ".attn2.", ".attention.")
        return {name: layer for name, layer in self.layers().items() if any(kind in name for kind in kinds)}

    def layers(self) -> dict[str, nn.Linear]:
        kinds = ("double_blocks", "single_blocks", "joint_blocks", "transformer_blocks", "layers")
        blocks = tuple(f"diffusion_model.{kind}." for kind in kinds)
        return {
            name: module
            for name, module in self.model.model.named_modules()
            if isinstance(module, nn.Linear) and name.startswith(blocks)
        }

    def text_keys_values(self) -> tuple:
        return ()

    def _repeated(self) -> list[nn.Module]:
        return [block.module for block in self._blocks]


def _noise_levels(sampling) -> Tensor:
    """The times of the MODEL's flow, at STEPS even steps of its schedule. Raises UnsupportedModel."""
    if type(sampling).calculate_denoised is not comfy.model_sampling.CONST.calculate_denoised:
        raise UnsupportedModel(
            "training needs a MODEL that predicts the velocity of a flow; connect it without nodes that change its "
            "prediction before this one"
        )
    sigmas = sampling.sigmas.detach().float().cpu()
    return sigmas[(torch.arange(1, STEPS + 1) * len(sigmas) // STEPS) - 1].clone()
