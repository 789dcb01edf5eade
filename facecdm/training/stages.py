"""What a stage of the training is: every number in one table, and the presets of the method's three stages."""

from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from typing import Literal, get_args

from ..errors import FaceCDMError

Group = Literal["projectors", "keys_values", "gates", "kappa", "interplay", "lora", "control"]
GROUPS: tuple[str, ...] = get_args(Group)
CHOICES = {
    "schedule": ("constant", "cosine", "linear"),
    "precision": ("fp32", "bf16", "fp16"),
    "lora_layers": ("attention", "all"),
    "identity_toward": ("picture", "person", "reference"),
    "few_steps_from": ("picture", "noise"),
}


@dataclass(frozen=True)
class Stage:
    """One stage. Shares and probabilities are in 0…1, steps of noise in 0…1000.

    `train` names the groups of parameters that learn; "control" is a LoRA of the pose ControlNet, of `lora_rank` and
    `lora_layers` as the U-Net's. `rank` is that of the keys' and values' low-rank additions
    (0: their weights learn whole), `lora_rank` that of the U-Net's LoRA. `noise_share` of the rows draw their noise
    from `noise_low` … `noise_high`, the others from the rest. A loss with weight 0 is not computed.
    """

    name: str = "broad"
    steps: int = 1000
    batch: int = 4
    accumulation: int = 1
    learning_rate: float = 1e-4
    gate_rate: float = 10.0  # the gates' learning rate, as a multiple of the others'
    schedule: str = "cosine"
    warmup: int = 50
    train: tuple[str, ...] = ("projectors", "keys_values", "gates")
    rank: int = 32
    lora_rank: int = 16
    lora_layers: str = "attention"  # or "all": feed-forward layers and convolutions of the U-Net's blocks, too
    precision: str = "fp32"
    checkpointing: bool = False
    ema: float = 0.0  # 0: none
    weight_decay: float = 0.01
    clip: float = 1.0
    seed: int = 0
    # what a row leaves out
    drop_text: float = 0.05
    drop_face: float = 0.05
    drop_image: float = 0.3
    drop_all: float = 0.05
    drop_pose: float = 0.5
    own_photo: float = 0.0  # share of rows whose reference is the picture itself, where others exist
    # noise
    min_snr: float = 5.0  # 0: none
    noise_low: int = 0
    noise_high: int = 1000
    noise_share: float = 0.0
    # losses
    face_region: float = 0.5  # probability that a row's loss counts its face region alone
    face_window: float = 0.0  # share of steps that see a window of half the side around the face, and no more
    bottleneck: float = 0.05
    identity: float = 0.0
    identity_below: int = 300  # the identity loss looks at pictures with less noise than this step's
    identity_every: int = 1
    identity_ramp: int = 0  # steps over which its weight grows
    identity_toward: str = "picture"  # whose embedding is wanted: the picture's, its person's mean, the reference's
    few_steps: int = 0  # > 0: the identity loss looks at the picture after so many sampling steps,
    few_steps_from: str = "picture"  # from the row's own noisy picture, or from pure "noise",
    few_steps_guidance: float = 1.0  # with so much classifier-free guidance,
    few_steps_learnt: int = 1  # and gradients go through the last so many of them
    contrast: float = 0.0  # share of the identity loss that is contrastive, against other people
    linear_identity: float = 0.0  # the same through a linear recogniser, at every noise level
    localisation: float = 0.0
    alignment: float = 0.0
    alignment_layout: float = 0.1
    alignment_every: int = 1
    background: float = 0.0
    save_every: int = 100
    validate_every: int = 100

    def __post_init__(self) -> None:
        unknown = set(self.train) - set(GROUPS)
        if unknown or not self.train:
            raise FaceCDMError(f"train must name some of {', '.join(GROUPS)}; got {', '.join(self.train) or 'none'}")
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise FaceCDMError(f"{name} must be one of {', '.join(known)}; got {getattr(self, name)!r}")
        for name in (
            "steps",
            "batch",
            "accumulation",
            "save_every",
            "validate_every",
            "identity_every",
            "alignment_every",
        ):
            if getattr(self, name) < 1:
                raise FaceCDMError(f"{name} must be at least 1; got {getattr(self, name)}")
        for name in (
            "drop_text",
            "drop_face",
            "drop_image",
            "drop_all",
            "drop_pose",
            "own_photo",
            "noise_share",
            "face_region",
            "face_window",
            "contrast",
        ):
            if not 0 <= getattr(self, name) <= 1:
                raise FaceCDMError(f"{name} must be between 0 and 1; got {getattr(self, name)}")
        if self.few_steps and not 1 <= self.few_steps_learnt <= self.few_steps:
            raise FaceCDMError(
                f"few_steps_learnt must be in 1 … few_steps ({self.few_steps}); got {self.few_steps_learnt}"
            )
        if not 0 <= self.noise_low < self.noise_high <= 1000:
            raise FaceCDMError(
                f"noise_low must be less than noise_high, both in 0…1000; got {self.noise_low} and {self.noise_high}"
            )

    def but(self, **values) -> "Stage":
        """A copy with other values, "1e-4" being a number. Raises FaceCDMError for a name that is none, or a value that
        is of another kind or out of range."""
        from pydantic import ValidationError

        unknown = values.keys() - {field.name for field in fields(self)}
        if unknown:
            raise FaceCDMError(
                f"{', '.join(sorted(unknown))}: a stage has no such setting; it has "
                f"{', '.join(field.name for field in fields(self))}"
            )
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
    from pydantic import TypeAdapter  # here, since ComfyUI's start waits for this module

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
    train=("projectors", "gates", "interplay", "kappa"),
    noise_high=500,
    noise_share=0.7,
    identity=0.1,
    drop_image=0.5,
    alignment=0.6,
    alignment_every=4,
    background=0.1,
)

# method.md's starting values: for many people, and for one person from a handful of photos.
PRESETS = {
    "adapter": (
        replace(_BROAD, steps=30_000, batch=16),
        replace(_IDENTITY, steps=15_000, batch=16),
        replace(_FINE, steps=5_000, batch=16),
    ),
    "one person": (
        replace(_BROAD, steps=800, batch=1, rank=8, noise_low=0, noise_share=0.0),
        replace(_IDENTITY, steps=400, batch=1, rank=8, lora_rank=8),
        replace(_FINE, steps=200, batch=1, rank=8),
    ),
}


def preset(name: str) -> tuple[Stage, Stage, Stage]:
    """The three stages of a preset. Raises FaceCDMError for an unknown one."""
    if name not in PRESETS:
        raise FaceCDMError(f"preset must be one of {', '.join(PRESETS)}; got {name!r}")
    return PRESETS[name]
