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
    Refused(
        "InstantX' IP-Adapter for SD3.5 Large",
        Rule({"latents": (1, None, None), "time_embedding.linear_1.weight": (None, None)}),
        "Its keys and values depend on the timestep, and the blocks of ComfyUI's SD3 do not pass on their queries; use "
        "SDXL (ip-adapter-plus_sdxl_vit-h.safetensors) or FLUX.1 (instantx-flux-ip-adapter.bin).",
    ),
)
