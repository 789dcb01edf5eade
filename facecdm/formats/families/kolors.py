"""Kolors' IP-Adapter Plus: IP-Adapter Plus with a wider resampler, for Kolors' U-Net.

Kwai-Kolors/Kolors, ipadapter/.
"""

from ..family import Family, Rule
from ..projectors import Resampler
from ..recipes import Pictures

FAMILY = Family(
    key="kolors-plus",
    name="Kolors IP-Adapter Plus",
    stream="image",
    rule=Rule({"latents": (1, None, 2048)}),
    projector=Resampler,
    recipe=Pictures(),
    strength=0.7,
    note="trained on Kolors' U-Net, which has SDXL's layers: connect that, not another SDXL model",
)
