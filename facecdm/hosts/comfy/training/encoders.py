"""ComfyUI's VAE, CLIP and CLIP_VISION as the encoders of a data set."""

import numpy as np
import torch
from torch import Tensor

from ....bases import BASES, base_for_text, base_like
from ....errors import Mismatch
from ....training.dataset.encoders import Fingerprints, as_batch, weights_fingerprint
from ....training.rows import Prompt
from .. import dit
from ..latents import check_vae, has_frames, without_frames


class ComfyEncoders:
    """Encoders for `model`; they use only its scaling of latents and its picture size."""

    def __init__(self, model, clip, vae, clip_vision=None):
        """Raises Mismatch if VAE or CLIP do not belong to the MODEL."""
        import comfy.model_base

        base = model.model
        self._format, self._vae, self._clip, self._vision = base.latent_format, vae, clip, clip_vision
        self.large = isinstance(base, comfy.model_base.SDXL)
        self.dit = dit.is_dit(model)
        self.pooled = self.dit and dit.reads_pooled(base.diffusion_model)
        demo = type(base.model_config).__name__ == "DemoConfig"
        if self.dit:
            layers = dit.layer_map(model)
            width, known = layers.context, base_like(layers)
        else:
            width = base.model_config.unet_config.get("context_dim")
            known = BASES["FaceCDM demo"] if demo else base_for_text(width, self.large)
        self.resolution, self.step = known.resolution, known.step
        if demo:  # a user's own weights file may have another size
            self.resolution, self.step = base.model_config.image_size, base.model_config.step
        check_vae(vae, self._format)
        self._text_width = width
        patched = clip.patcher
        self.fingerprints = Fingerprints(
            weights_fingerprint(
                sorted(vae.first_stage_model.state_dict().items()),
                type(self._format).__name__,
                getattr(self._format, "scale_factor", 1.0),
            ),
            weights_fingerprint(
                _originals(patched),
                type(clip.tokenizer).__name__,
                getattr(clip, "layer_idx", None),
                _patches(patched.patches),
            ),
            weights_fingerprint(sorted(clip_vision.model.state_dict().items()), clip_vision.image_size)
            if clip_vision is not None
            else "",
        )

    def latents(self, pixels: Tensor) -> Tensor:
        # A VAE of videos takes the pictures of a batch for frames.
        parts = pixels.split(1) if has_frames(self._format) else [pixels]
        made = torch.cat([self._vae.encode(part) for part in parts])
        return without_frames(self._format.process_in(made)).float()

    def text(self, captions: list[str]) -> list[Prompt]:
        prompts = []
        for caption in captions:
            # Parentheses in a caption are not weights.
            tokens = self._clip.tokenize(caption.replace("(", "\\(").replace(")", "\\)"))
            states, pooled = self._clip.encode_from_tokens(tokens, return_pooled=True)
            if states.shape[-1] != self._text_width:
                raise Mismatch(
                    f"the CLIP gives {states.shape[-1]} features, and the MODEL takes {self._text_width}: "
                    "connect the CLIP that belongs to the MODEL"
                )
            prompts.append(Prompt(states.float(), pooled.float() if self.large or self.pooled else None))
        return prompts

    def vision(self, pictures: list[np.ndarray]) -> Tensor:
        return torch.cat(
            [
                self._vision.encode_image(as_batch([picture])).penultimate_hidden_states.float().cpu()
                for picture in pictures
            ]
        )


def _originals(patcher):
    """(name, weights) without LoRA patches, even while these are applied."""
    for name, value in sorted(patcher.model.state_dict().items()):
        yield name, patcher.backup[name].weight if name in patcher.backup else value


def _patches(patches: dict) -> str:
    """A hash of the LoRAs and merges on the weights."""
    found = sorted(
        (name, number, tensor) for name, entries in patches.items() for number, tensor in enumerate(_tensors(entries))
    )
    return weights_fingerprint(
        ((f"{name}.{number}", tensor) for name, number, tensor in found),
        [(name, [entry[0] for entry in entries]) for name, entries in sorted(patches.items())],
    )


def _tensors(value):
    """Every tensor within tuples, lists and ComfyUI's weight adapters."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif hasattr(value, "weights"):
        yield from _tensors(value.weights)
