"""The entry of one base model."""

from dataclasses import dataclass, field

from .layers import LayerMap
from .noise import Discrete, Flow

LATENT_PIXELS = 8  # pixels per latent along each side, in every base model here


@dataclass(frozen=True, eq=False)
class Base:
    """Facts about a base model. The defaults are Stable Diffusion 1's.

    name         used in messages and file metadata
    layer_map    cross-attention layers in IP-Adapter's order, or a DiT's blocks; and the width of a text token
    blocks       (number, layers) of each transformer block in the layer map's order; numbers count in the order of
                 computation (U-Net: ComfyUI's `transformer_index`); empty if block numbers are unknown
    presets      factors of blocks by the preset's name (adapter/curves.py); blocks that are not named get 0
    resolution   side in pixels of the square pictures that it was trained on
    step         in pixels; the sides of training pictures are multiples of it
    pooled_text  whether it also reads a pooled text embedding (SDXL: and picture sizes; Chroma, which shares Flux.1's
                 entry, reads neither)
    face_crop    side in pixels of the aligned face that its FaceID Plus adapters read
    patch        latents along each side of an image token; 1 for a U-Net
    noise        the noise process that it was trained with; only the demo model's is used (demo/schedule.py), since
                 hosts read it from the MODEL or the scheduler
    """

    name: str
    layer_map: LayerMap
    blocks: tuple[tuple[int, int], ...] = ()
    presets: dict[str, dict[int, float]] = field(default_factory=dict)
    resolution: int = 512
    step: int = 64
    pooled_text: bool = False
    face_crop: int = 256
    patch: int = 1
    noise: Discrete | Flow = field(default_factory=Discrete.scaled_linear)

    @property
    def text_width(self) -> int:
        """Features of a text token; its ControlNets read text of the same width."""
        return self.layer_map.context
