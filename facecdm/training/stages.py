"""The settings of a training stage, and the presets of the method's three stages."""

from dataclasses import asdict, dataclass, fields, make_dataclass, replace
from functools import cache
from typing import Literal, get_args

from ..errors import FaceCDMError
from .losses import LOSSES
from .losses.loss import LossSettings
from .settings import flat, rule, setting, share

Group = Literal["projectors", "keys_values", "gates", "kappa", "interplay", "lora", "control"]
GROUPS: tuple[str, ...] = get_args(Group)


@dataclass(frozen=True)
class Optimisation:
    """The trained parameters, the number of steps, and the learning rate.

    `train` names groups of parameters; "control" is a LoRA of the pose ControlNet.
    """

    name: str = "broad"
    steps: int = setting(1000, "Number of training steps.", 1)
    batch: int = setting(4, "Pictures per batch.", 1)
    accumulation: int = setting(1, "Batches per step, whose gradients are averaged.", 1)
    learning_rate: float = setting(1e-4, "Step size of the optimiser (AdamW).", 0)
    gate_rate: float = setting(10.0, "Learning rate of the gates, as a multiple of the others'.", 0)
    schedule: str = setting(
        "cosine", "How the learning rate falls after the warm-up.", choices=("constant", "cosine", "linear")
    )
    warmup: int = setting(50, "Steps over which the learning rate rises.", 0)
    train: tuple[str, ...] = ("projectors", "keys_values", "gates")
    rank: int = setting(
        32, "Rank of the low-rank additions to the adapter's keys and values; 0: train their full weights.", 0
    )
    lora_rank: int = setting(16, "Rank of the LoRA of the base model, and of the ControlNet's.", 0)
    lora_layers: str = setting(
        "attention",
        "Layers that the LoRA adds to: the attention, or all, which includes feed-forward layers and convolutions "
        "(learns a face in fewer steps, costs more time and memory).",
        choices=("attention", "all"),
    )
    precision: str = setting(
        "fp32",
        "Number format of the base model's arithmetic; the preset uses the model's own format, and bf16 for fp16.",
        choices=("fp32", "bf16", "fp16"),
    )
    checkpointing: bool = setting(
        False,
        "Recompute the base model's activations in the backward pass: slower (24 % on the demo), far less memory.",
    )
    ema: float = share(0.0, "Decay of the moving average that becomes the result (0.999 for long trainings); 0: none.")
    weight_decay: float = setting(0.01, "Weight decay of the optimiser (AdamW).", 0)
    clip: float = setting(1.0, "Largest norm of a step's gradient.", 0)
    seed: int = 0


@dataclass(frozen=True)
class Dropout:
    """Which conditioning a row leaves out, for classifier-free guidance."""

    drop_text: float = share(0.05, "Share of rows without their prompt, for classifier-free guidance.")
    drop_face: float = share(0.05, "Share of rows without their face.")
    drop_image: float = share(0.3, "Share of rows without the whole image.")
    drop_all: float = share(0.05, "Share of rows without prompt, face and image.")
    drop_pose: float = share(0.5, "Share of batches without the pose ControlNet and the face's location.")
    own_photo: float = share(
        0.0, "Share of rows whose reference is the picture itself although other photos exist; this teaches copying."
    )


@dataclass(frozen=True)
class OwnLocation:
    """How the adapter learns to find the face's location by itself; only for adapters with spatial tokens."""

    location_steps: int = setting(
        0,
        "Steps of training a location head before this stage, if the adapter has none; with it the adapter finds the "
        "face by itself and needs no pose. 0: none.",
        0,
    )
    find_location: float = share(
        0.0, "Share of batches whose face location comes from the adapter's location head, not from the data set."
    )


@dataclass(frozen=True)
class Saving:
    save_every: int = setting(100, "Steps between checkpoints on disk.", 1)
    validate_every: int = setting(100, "Steps between validations on held-out pictures.", 1)


# Graphs store values by the order of FaceCDM Stage Settings' widgets, so this order is fixed: later losses come last.
_KEPT = 7
_GROUPS = (Optimisation, Dropout, *LOSSES[:_KEPT], Saving, OwnLocation, *LOSSES[_KEPT:])
_Settings = make_dataclass("_Settings", flat(_GROUPS), frozen=True)


@dataclass(frozen=True)
class Stage(_Settings):  # type: ignore[misc, valid-type]
    """The settings of one stage: those of `Optimisation`, `Dropout`, every loss in `LOSSES`, `Saving`, `OwnLocation`.

    Raises FaceCDMError for values that are out of range or contradict one another.
    """

    def __post_init__(self) -> None:
        unknown = set(self.train) - set(GROUPS)
        if unknown or not self.train:
            raise FaceCDMError(f"train must name some of {', '.join(GROUPS)}; got {', '.join(self.train) or 'none'}")
        for one in fields(self):
            if found := rule(one):
                found.check(one.name, getattr(self, one.name))
        for loss in LOSSES:
            loss.of(self).check()

    def losses(self) -> list[LossSettings]:
        """The settings of the losses that this stage computes, in the order of `LOSSES`."""
        return [own for loss in LOSSES if (own := loss.of(self)).weight]

    def with_settings(self, **values) -> "Stage":
        """A copy with other values; numbers may be text, such as "1e-4".

        Raises FaceCDMError for an unknown name, and for a value of the wrong type or out of range.
        """
        from pydantic import ValidationError

        known = [one.name for one in fields(self)]
        if unknown := sorted(values.keys() - set(known)):
            raise FaceCDMError(f"unknown setting {', '.join(unknown)}: a stage has {', '.join(known)}")
        try:
            return _checker().validate_python({**self.to_dict(), **values})
        except ValidationError as error:
            raise FaceCDMError(
                "; ".join(f"{'.'.join(map(str, mistake['loc']))}: {mistake['msg']}" for mistake in error.errors())
            ) from error

    def to_dict(self) -> dict:
        return asdict(self) | {"train": list(self.train)}


@cache
def _checker():
    from pydantic import TypeAdapter  # imported here, since ComfyUI imports this module at startup

    return TypeAdapter(Stage)


_BROAD = Stage("broad", noise_low=300, noise_share=0.7)
_IDENTITY = Stage(
    "identity",
    learning_rate=5e-5,
    train=("projectors", "keys_values", "gates", "interplay", "lora"),
    identity=0.1,
    identity_ramp=200,
    localisation=0.001,
    drop_pose=0.3,
)
_FINE = Stage(
    "fine",
    learning_rate=5e-6,
    schedule="constant",
    train=("projectors", "gates", "interplay"),
    noise_high=500,
    noise_share=0.7,
    identity=0.1,
    drop_image=0.5,
    alignment=0.6,
    alignment_every=4,
    background=0.1,
)

# What raised identity similarity most on the demo model (docs/results.md): the adapter is conditioned on face location,
# finds it by itself in half of the batches, and has an identity loss on images sampled from noise. A step with that
# loss takes several times as long, so only every fourth one has it.
_LOCATED = dict(face_window=0.8, drop_pose=0.1, linear_identity=0.5)
_SAMPLED = dict(
    batch=4,
    accumulation=4,
    checkpointing=True,
    find_location=0.5,
    identity=0.3,
    identity_toward="person",
    identity_ramp=0,
    identity_every=4,
    few_steps=4,
    few_steps_from="noise",
    few_steps_guidance=4.0,
    few_steps_learnt=4,
    localisation=0.0,
    **_LOCATED,
)

# A flow's timesteps are shifted toward noise: its 200 and 340 have about the noise of a U-Net's 300 and 500.
_DIT = dict(batch=4, accumulation=4, rank=0, checkpointing=True)
_DIT_ALONE = dict(batch=1, rank=0, checkpointing=True)
_DIT_STAGES = (
    replace(_BROAD, noise_low=200),
    replace(_IDENTITY, identity_below=200),
    replace(_FINE, noise_high=340, identity_below=200),
)

# The starting values of docs/method.md, for many people and for one person with a few photos; the same for DiTs.
PRESETS = {
    "adapter": (
        replace(_BROAD, steps=30_000, batch=16),
        replace(_IDENTITY, steps=15_000, batch=16, location_steps=1000),
        replace(_FINE, steps=5_000, batch=16),
    ),
    "located adapter": (
        replace(_BROAD, steps=30_000, batch=16, **_LOCATED),
        replace(_IDENTITY, steps=15_000, location_steps=1000, **_SAMPLED),
        replace(
            _FINE,
            steps=5_000,
            train=_IDENTITY.train,
            **{**_SAMPLED, "face_window": 0.25},
            schedule="linear",
            noise_high=1000,
            alignment=0.0,
            background=2.0,
        ),
    ),
    "one person": (
        replace(_BROAD, steps=800, batch=1, rank=8, noise_low=0, noise_share=0.0),
        replace(_IDENTITY, steps=400, batch=1, rank=8, lora_rank=8),
        replace(_FINE, steps=200, batch=1, rank=8),
    ),
    "DiT adapter": (
        replace(_DIT_STAGES[0], steps=30_000, **_DIT),
        replace(_DIT_STAGES[1], steps=15_000, location_steps=1000, **_DIT),
        replace(_DIT_STAGES[2], steps=5_000, **_DIT),
    ),
    "DiT one person": (
        replace(_DIT_STAGES[0], steps=800, noise_low=0, noise_share=0.0, **_DIT_ALONE),
        replace(_DIT_STAGES[1], steps=400, lora_rank=8, **_DIT_ALONE),
        replace(_DIT_STAGES[2], steps=200, **_DIT_ALONE),
    ),
}


def preset(name: str) -> tuple[Stage, Stage, Stage]:
    """The three stages of a preset. Raises FaceCDMError for an unknown name."""
    if name not in PRESETS:
        raise FaceCDMError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]
