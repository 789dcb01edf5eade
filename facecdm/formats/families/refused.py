"""Published adapters that are recognised and refused, with the reason."""

from dataclasses import dataclass

from ..family import Rule


@dataclass(frozen=True)
class Refused:
    name: str
    rule: Rule
    reason: str


REFUSED = (
    Refused(
        "FaceID Plus for Kolors",
        Rule({"perceiver_resampler.layers.0.0.to_out.weight": (4096, None)}),
        "Its tokens pass through the text projection of Kolors' own U-Net, which core ComfyUI does not load; use an "
        "adapter for SDXL (ip-adapter-faceid-plusv2_sdxl.bin).",
    ),
)
