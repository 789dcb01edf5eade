"""A file whose family and base model are known."""

from dataclasses import dataclass
from pathlib import Path

from ..bases import name_of
from ..bases.layers import LayerMap
from .encoders import Encoder, encoder_for
from .family import Family, Sizes


@dataclass(frozen=True)
class Recognised:
    """A recognised file.

    family     its family
    layer_map  the base model's layers (bases/layers.py)
    why        the evidence for the family, in words
    sizes      sizes of its projector
    lora       rank of the LoRA inside; 0 without one
    path       path of the file
    """

    family: Family
    layer_map: LayerMap
    why: str
    sizes: Sizes
    lora: int
    path: Path

    @property
    def encoder(self) -> Encoder | None:
        """The vision tower that the adapter was trained with; None if it is unknown or the adapter uses none."""
        width = self.sizes.vision_width
        return encoder_for(self.family.recipe.vision, width) if width else None

    def report(self) -> str:
        family, width = self.family, self.sizes.vision_width
        lines = [
            f"{family.name} for {name_of(self.layer_map)}, recognised by {self.why}",
            f"{family.stream}: {family.reads} → {self.sizes.tokens} tokens",
        ]
        if width:
            tower = f"{self.encoder.name}, {self.encoder.file}" if self.encoder else "an unknown tower"
            lines.append(f"CLIP vision: {tower} ({width} features, {family.recipe.vision})")
        if self.lora:
            lines.append(f"LoRA inside: rank {self.lora}, applied with its own strength; no second file is needed")
        lines.append(f"recommended {family.stream}_strength: {family.strength:g}")
        return "\n".join([*lines, *([family.note] if family.note else [])])
