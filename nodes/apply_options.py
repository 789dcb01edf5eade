"""FaceCDM Apply Options: rarely changed settings of Apply FaceCDM."""

from dataclasses import dataclass

from comfy_api.latest import io
from torch import Tensor

from ..facecdm.adapter.attention import PROJECTIONS
from ..facecdm.adapter.curves import CURVES, CUSTOM, NAMES, parse_curve, parse_custom
from ..facecdm.formats.family import LORA
from .checks import checked
from .inputs import choice, fraction, number, optional
from .new_fields import aliases
from .sockets import OPTIONS

SAME, OWN, NONE = "the face's", "the adapter's own", "none"
WEIGHTS = "One number for each reference, or for each frame of a video, as 1, 0.5; empty: equal weights."


@dataclass(frozen=True, eq=False)
class ApplyOptions:
    """Parsed options of Apply FaceCDM. The defaults apply if the node is not connected."""

    balance: float = 0.0
    lora_strength: float = LORA
    structure: float = 1.0
    over_steps: tuple[float, ...] = (1.0,)
    image_curve: str = SAME
    image_custom_curve: str = "1"
    reference_weights: tuple[float, ...] = ()
    projection: str = OWN
    cfg_rescale: float = 0.0
    negative_image: Tensor | None = None
    noise: float = 0.0


class ApplyOptionsNode(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMApplyOptions",
            display_name="FaceCDM Apply Options",
            category="FaceCDM",
            **aliases("facecdm settings", "ipadapter advanced"),
            description="More settings for Apply FaceCDM. The defaults change nothing.",
            inputs=[
                number(
                    "balance",
                    0.0,
                    -1.0,
                    1.0,
                    0.05,
                    "Balance between prompt (-1) and identity (1). It changes strength and keep_prompt by amounts "
                    "that suit the adapter's family; 0 leaves them as published.",
                ),
                number(
                    "lora_strength",
                    LORA,
                    0.0,
                    2.0,
                    0.05,
                    "Strength of the LoRA inside a FaceID, UniPortrait or ConsistentID file: 0.6 is what the "
                    "authors recommend. Other adapters have none.",
                ),
                number(
                    "structure",
                    1.0,
                    0.0,
                    5.0,
                    0.05,
                    "FaceID PlusV2: weight of the tokens of the face's picture. UniPortrait: weight of the face's "
                    "structure, in tenths (1 is 0.1).",
                ),
                io.String.Input(
                    "over_steps",
                    default="1",
                    tooltip="Strength over the sampling: numbers at even distances from its start to "
                    "its end, as 0, 1, 0.5.",
                ),
                choice(
                    "image_curve",
                    [SAME, *NAMES],
                    SAME,
                    "Strength of the image stream over the base model's depth, if it differs from the face's.",
                ),
                io.String.Input(
                    "image_custom_curve",
                    default="1, 1, 1",
                    tooltip="For the image curve 'custom': a curve 0, 1, 0.5, or blocks 3:1, 6:0.5.",
                ),
                io.String.Input("reference_weights", default="", tooltip=WEIGHTS),
                choice(
                    "projection",
                    [OWN, *PROJECTIONS, NONE],
                    OWN,
                    "How keep_prompt finds what the prompt determines: at each position over the "
                    "features, or over all positions (PuLID's fidelity is token_v2, its style token); "
                    "none removes nothing.",
                ),
                fraction(
                    "cfg_rescale",
                    0.0,
                    "Against overexposed pictures at high CFG: rescales the result to the contrast of "
                    "the conditional prediction. Of several people's values the largest is used.",
                ),
                fraction(
                    "noise",
                    0.0,
                    "Noise in the empty face of the negative prompt (InstantID, PuLID, FaceID; an error "
                    "with others). A little makes overexposed pictures softer.",
                ),
                optional(
                    io.Image,
                    "negative_image",
                    "The image stream, or FaceID Plus, moves away from this picture: it replaces the empty picture of "
                    "the negative prompt. An error with other adapters.",
                ),
            ],
            outputs=[OPTIONS.Output(display_name="options", tooltip="For Apply FaceCDM and Apply FaceCDM to People.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        balance,
        lora_strength,
        structure,
        over_steps,
        image_curve,
        image_custom_curve,
        reference_weights,
        projection,
        cfg_rescale,
        noise=0.0,
        negative_image=None,
    ):
        if image_curve == CUSTOM:
            parse_custom(image_custom_curve, "image_custom_curve")
        return io.NodeOutput(
            ApplyOptions(
                balance,
                lora_strength,
                structure,
                _numbers(over_steps, "over_steps"),
                image_curve,
                image_custom_curve,
                weights_of(reference_weights),
                projection,
                cfg_rescale,
                negative_image,
                noise,
            )
        )


def weights_of(reference_weights: str) -> tuple[float, ...]:
    """Parse the weights; () for an empty text. Raises FaceCDMError."""
    return _numbers(reference_weights, "reference_weights") if reference_weights.strip() else ()


def _numbers(text: str, name: str) -> tuple[float, ...]:
    """Parse numbers or the name of a curve."""
    if text.strip() in CURVES:
        return CURVES[text.strip()]
    return parse_curve(text, name)
