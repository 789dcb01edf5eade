"""Sizes of the demo model, which are saved with its weights."""

import json
from dataclasses import asdict, dataclass, field

from ..documents import parse_json
from .clip import ClipSizes

WIDEST, DEEPEST = 4096, 32


@dataclass(frozen=True)
class DemoSizes:
    """Pixels, widths and depths.

    attention    levels of the U-Net with cross-attention to the caption
    decoder      widths of the f16 decoder at 1, 2 and 4 times the latents' resolution;
                 empty: the f8 decoder with a refiner of `refiner_width`
    """

    image_size: int = 128
    latent_channels: int = 48
    refiner_width: int = 128
    decoder: tuple[int, ...] = ()
    channels: tuple[int, ...] = (128, 128, 256)
    attention: tuple[bool, ...] = (True, True, False)
    clip: ClipSizes = field(default_factory=ClipSizes)

    @property
    def downscale(self) -> int:
        """Pixels per latent position of the U-Net, along one side."""
        return 16 if self.decoder else 8

    @property
    def shuffle(self) -> int:
        """ComfyUI's latent positions per position of the U-Net, along one side.

        ComfyUI's nodes make latents of an eighth of the picture. A pixel shuffle therefore gives f16 latents twice the
        height and width and a quarter of the channels; the U-Net undoes it.
        """
        return self.downscale // 8

    def unet_config(self) -> dict:
        """Configuration of diffusers' UNet2DConditionModel; heads are 64 wide."""
        down = ["CrossAttnDownBlock2D" if here else "DownBlock2D" for here in self.attention]
        return {
            "sample_size": self.image_size // self.downscale,
            "in_channels": self.latent_channels,
            "out_channels": self.latent_channels,
            "block_out_channels": list(self.channels),
            "layers_per_block": 1,
            "down_block_types": down,
            "up_block_types": [name.replace("Down", "Up") for name in reversed(down)],
            "cross_attention_dim": self.clip.width,
            "attention_head_dim": [width // 64 for width in self.channels],
        }

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "DemoSizes":
        """Read `to_json`'s text. Raises ValueError, TypeError or KeyError for any other text."""
        fields = parse_json(text)
        sizes = cls(
            **fields
            | {
                "channels": tuple(fields["channels"]),
                "attention": tuple(fields["attention"]),
                "decoder": tuple(fields.get("decoder", ())),  # files before 2026-11 have none
                "clip": ClipSizes(**fields["clip"]),
            }
        )
        clip = sizes.clip
        numbers = [sizes.image_size, sizes.latent_channels, sizes.refiner_width, *sizes.channels, *sizes.decoder]
        numbers += asdict(clip).values()
        depths = clip.text_layers, clip.vision_layers, len(sizes.channels), len(sizes.decoder)
        if not all(isinstance(number, int) and 0 <= number <= WIDEST for number in numbers) or max(depths) > DEEPEST:
            raise ValueError(f"sizes are whole numbers up to {WIDEST}, and {DEEPEST} layers or levels at most")
        return sizes
