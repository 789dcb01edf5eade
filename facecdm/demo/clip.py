"""A small CLIP for the demo model: CLIP's tokenizer, two towers, one space (Radford et al. 2021)."""

import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import MissingModel, MissingPackage
from ..saved_folder import open_part

START, END = 49406, 49407  # ids of the CLIP tokenizer; END is also the padding, as in Stable Diffusion
FULL_VOCABULARY = 49408
TEXT_LENGTH = 77
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True)
class ClipSizes:
    """Widths are multiples of 64, the width of a head; `image_size` is in pixels."""

    width: int = 192
    text_layers: int = 4
    vision_layers: int = 4
    image_size: int = 96
    patch_size: int = 16

    def text_config(self) -> dict:
        """Configuration of a CLIPTextModel, the same for transformers and ComfyUI (except the vocabulary)."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": self.width // 64,
            "intermediate_size": 4 * self.width,
            "max_position_embeddings": TEXT_LENGTH,
            "hidden_act": "quick_gelu",
            "projection_dim": self.width,
            "eos_token_id": END,
        }

    def vision_config(self) -> dict:
        """Configuration of a CLIPVisionModel, the same for transformers and ComfyUI."""
        return {
            "hidden_size": self.width,
            "num_hidden_layers": self.vision_layers,
            "num_attention_heads": self.width // 64,
            "intermediate_size": 4 * self.width,
            "image_size": self.image_size,
            "patch_size": self.patch_size,
            "num_channels": 3,
            "hidden_act": "quick_gelu",
            "projection_dim": self.width,
            "model_type": "clip_vision_model",
        }


class Vocabulary:
    """Token ids used in captions, mapped to rows of a short embedding; row 0 stands for all other tokens."""

    def __init__(self, token_ids: list[int]):
        self.token_ids = sorted(set(token_ids) | {START, END})
        self.rows = torch.zeros(FULL_VOCABULARY, dtype=torch.long)
        self.rows[self.token_ids] = torch.arange(1, len(self.token_ids) + 1)

    def __len__(self) -> int:
        return len(self.token_ids) + 1

    def expand(self, embedding: Tensor) -> Tensor:
        """Expand the short embedding [rows, width] to the tokenizer's whole table [49408, width]."""
        return embedding[self.rows]


class CaptionTokens:
    """Convert captions to rows of the vocabulary, [B, 77], padded with END."""

    def __init__(self, tokenizer, captions: list[str]):
        self._ids = {}
        self._tokenizer = tokenizer
        for clause in {clause for caption in captions for clause in caption.split(", ")}:
            self._ids[clause] = tokenizer(clause)["input_ids"][1:-1]
        self._comma = tokenizer(",")["input_ids"][1:-1]
        self.vocabulary = Vocabulary([i for ids in self._ids.values() for i in ids] + self._comma)

    def __call__(self, captions: list[str], unknown: float = 0.0, rng: random.Random | None = None) -> Tensor:
        """`unknown` is the share of tokens replaced by row 0, sampled with `rng`."""
        out = torch.full((len(captions), TEXT_LENGTH), END)
        for row, caption in enumerate(captions):
            ids = [START]
            for clause in caption.split(", ") if caption else ():
                ids += (self._comma if len(ids) > 1 else []) + self._ids[clause]
            out[row, : len(ids)] = torch.tensor(ids)
        rows = self.vocabulary.rows[out]
        if unknown:
            words = (out != START) & (out != END)
            random_values = torch.rand(out.shape, generator=torch.Generator().manual_seed(rng.getrandbits(48)))
            rows[words & (random_values < unknown)] = 0
        return rows


class TinyClip(nn.Module):
    """Text and vision towers of transformers.

    The text tower is trained to classify each attribute of a caption; the vision tower is then trained to match the
    text tower's embeddings. This lets the U-Net be trained before the vision tower.
    """

    def __init__(self, sizes: ClipSizes, vocabulary_size: int, classes: dict[str, list[str]] | None = None):
        from transformers import (
            CLIPTextConfig,
            CLIPTextModelWithProjection,
            CLIPVisionConfig,
            CLIPVisionModelWithProjection,
        )

        super().__init__()
        # An eos_token_id of 2 would select transformers' legacy arg-max pooling; `text` does the pooling here.
        text = CLIPTextConfig(
            **sizes.text_config()
            | {"vocab_size": vocabulary_size, "eos_token_id": 0, "bos_token_id": 0, "pad_token_id": 0}
        )
        self.text_tower = CLIPTextModelWithProjection(text)
        self.vision_tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**sizes.vision_config()))
        self.heads = nn.ModuleDict(
            {name: nn.Linear(sizes.width, len(values)) for name, values in (classes or {}).items()}
        )
        self.log_scale = nn.Parameter(torch.tensor(10.0).log())
        self.end_row = vocabulary_size - 1  # the last row, since END has the highest id

    def text(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows [B, L] → (hidden states after the last norm [B, L, width], embedding [B, width])."""
        hidden = self.text_tower.text_model(input_ids=rows).last_hidden_state
        end = (rows == self.end_row).int().argmax(1)
        return hidden, self.text_tower.text_projection(hidden[torch.arange(len(rows)), end])

    def image(self, pixels: Tensor) -> Tensor:
        """pixels [B, 3, S, S], normalised as for CLIP → embedding [B, width]."""
        return self.vision_tower(pixel_values=pixels).image_embeds

    def text_loss(self, rows: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Mean cross-entropy of classifying each attribute from the caption; −1 marks an omitted value."""
        return self._naming(self.text(rows)[1], targets)

    def image_loss(self, rows: Tensor, pixels: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """InfoNCE against the frozen text tower (LiT, Zhai et al. 2022), plus the attribute heads' cross-entropy."""
        with torch.no_grad():
            text = F.normalize(self.text(rows)[1], dim=1)
        image = self.image(pixels)
        logits = self.log_scale.exp() * F.normalize(image, dim=1) @ text.T
        pairs = torch.arange(len(rows), device=logits.device)
        contrast = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
        return contrast + self._naming(image, targets)

    def _naming(self, embedding: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return torch.stack(
            [F.cross_entropy(head(embedding), targets[name], ignore_index=-1) for name, head in self.heads.items()]
        ).mean()


def normalise(pixels: Tensor, size: int) -> Tensor:
    """uint8 [B, H, W, 3] → float [B, 3, size, size], normalised for CLIP."""
    image = pixels.permute(0, 3, 1, 2).float() / 255
    if image.shape[-1] != size:
        image = F.interpolate(image, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
    mean, std = torch.tensor(PIXEL_MEAN).view(3, 1, 1), torch.tensor(PIXEL_STD).view(3, 1, 1)
    return (image - mean) / std


def open_tokenizer(folder: Path):
    """Open the CLIP tokenizer in a folder. Raises MissingPackage, MissingModel."""
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingPackage("reading captions needs transformers: pip install transformers") from error
    if not (folder / "vocab.json").is_file():
        raise MissingModel(
            f"no CLIP tokenizer in {folder} (vocab.json is missing): give a folder such as ComfyUI's "
            "comfy/sd1_tokenizer"
        )
    return open_part(CLIPTokenizer, folder)
