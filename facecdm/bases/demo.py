"""The demo model of this package (facecdm/demo)."""

from .base import Base
from .layers import LayerMap
from .noise import Discrete

# Scale of its perturbed-attention guidance, and the noise level σ up to which it acts: above, it would exaggerate
# colours and layout.
ATTENTION_GUIDANCE, GUIDED_BELOW = 1.0, 12.0

DEMO = Base(
    "FaceCDM demo",
    LayerMap.of_runs(192, ("input", 128, 2, 2), ("output", 128, 2, 4), ("middle", 256, 4, 1)),
    resolution=256,
    step=16,
    noise=Discrete.scaled_linear(zero_terminal_snr=True),
)
