"""The arms of the ablation. Each is one entry of a table, and differs from the full triplet in what it declares."""

from dataclasses import dataclass, field, replace

from facecdm.errors import FaceCDMError
from facecdm.training.config import Config
from facecdm.training.stages import Stage


@dataclass(frozen=True)
class Design:
    """The adapter that a training starts from.

    image, interplay, router, spatial_tokens  whether it has that part
    mlp_tokens    > 0: so many face tokens from an MLP, and gates that are constant over the noise, as in FaceID
    whole_code    no bottleneck: the code is as wide as the embedding
    kappa         κ of both streams
    location      a location head finds the face where its location is not given
    face_control  the pose ControlNet reads the face tokens instead of the prompt, and a LoRA of it is trained
    """

    image: bool = True
    interplay: bool = True
    router: bool = False
    spatial_tokens: bool = True
    mlp_tokens: int = 0
    whole_code: bool = False
    kappa: float = 0.0
    location: bool = True
    face_control: bool = False


@dataclass(frozen=True)
class SamplingSettings:
    """How an arm's images are sampled.

    face, image  strengths of the streams
    pose         under the pose ControlNet, where there is one
    located      an adapter with spatial tokens is conditioned on face location
    """

    face: float = 1.0
    image: float = 1.0
    pose: bool = True
    located: bool = True


@dataclass(frozen=True)
class Arm:
    """One arm.

    description  for the report
    headline     three trainings instead of one
    strengths    that its first training is also sampled at, for the curves
    design       of its adapter
    settings     override those of every stage; of one stage as "fine.background"
    frozen       parameter groups that are not trained
    trained      further parameter groups that are trained
    stages       the stages that are trained
    length       pictures that it sees, as a multiple of the recipe's
    sampling     how its images are sampled
    of           the arm whose training it uses
    trains       False for the base model
    """

    name: str
    description: str
    headline: bool = False
    strengths: tuple[float, ...] = ()
    design: Design = field(default_factory=Design)
    settings: tuple[tuple[str, object], ...] = ()
    frozen: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("broad", "identity", "fine")
    length: float = 1.0
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    of: str = ""
    trains: bool = True


NONE, TRIPLET = "no identity", "triplet"
NONE_POSELESS, POSELESS = "no identity, without pose", "without pose"
# The sampled identity loss begins with noise where the face's location is known, else with the noisy picture.
_UNLOCATED = (("few_steps_from", "picture"), ("find_location", 0.0))
_ALONE = SamplingSettings(pose=False, located=False)
_FACEID = Arm(
    "FaceID's design",
    "IP-Adapter FaceID: four tokens by an MLP, decoupled attention, LoRA",
    headline=True,
    strengths=(1.3,),
    design=Design(image=False, interplay=False, spatial_tokens=False, mlp_tokens=4),
    settings=(("bottleneck", 0.0), *_UNLOCATED),
    frozen=("interplay",),
)
_INSTANTID = Arm(
    "InstantID's design",
    "sixteen tokens by an MLP, decoupled attention without LoRA, and a ControlNet that reads the tokens instead of the "
    "prompt (a LoRA of the pose ControlNet is trained)",
    strengths=(1.3,),
    design=Design(image=False, interplay=False, spatial_tokens=False, mlp_tokens=16, face_control=True),
    settings=(("bottleneck", 0.0), ("drop_pose", 0.0), *_UNLOCATED),
    frozen=("interplay", "lora"),
    trained=("control",),
)


def _longer(one: Arm) -> Arm:
    """The arm for as much time as the triplet's training takes."""
    return replace(
        one,
        name=f"{one.name}, longer",
        description="the same with twice as many pictures, which takes about as long as the triplet",
        headline=False,
        strengths=(),
        length=2.0,
    )


ARMS: tuple[Arm, ...] = (
    Arm(NONE, "the base model: same prompts, same noise", trains=False),
    _FACEID,
    _longer(_FACEID),
    _INSTANTID,
    _longer(_INSTANTID),
    Arm(
        "PuLID's alignment",
        "the triplet with PuLID's alignment loss instead of the background loss, and κ 1, which projects over features "
        "where PuLID does over positions",
        strengths=(0.7,),
        design=Design(kappa=1.0),
        settings=(
            ("background", 0.0),
            ("identity.alignment", 0.6),
            ("fine.alignment", 0.6),
        ),
    ),
    Arm(TRIPLET, "face, image and interplay, in three stages", headline=True, strengths=(0.4, 0.7, 1.3)),
    Arm(
        "face stream",
        "the triplet's face stream and nothing else",
        headline=True,
        strengths=(0.4, 0.7, 1.3),
        design=Design(image=False, interplay=False),
        frozen=("interplay",),
    ),
    Arm(
        "without interplay",
        "face and image stream",
        headline=True,
        strengths=(0.7,),
        design=Design(interplay=False),
        frozen=("interplay",),
    ),
    Arm("token-wise router", "the triplet with a weight per stream and position", design=Design(router=True)),
    Arm("κ learnt", "the triplet, whose κ is trained", trained=("kappa",)),
    Arm(
        "one stage",
        "the second stage only: everything is trained at once, with as many sampled identity losses",
        stages=("identity",),
        settings=(("learning_rate", 1e-3), ("schedule", "linear"), ("identity_every", 6)),
    ),
    Arm("two stages", "without the third stage", stages=("broad", "identity")),
    Arm("without background loss", "the third stage has no background loss", settings=(("background", 0.0),)),
    Arm("same photo", "the reference in training is the picture itself", settings=(("own_photo", 1.0),)),
    Arm(
        "without bottleneck",
        "the code is as wide as the embedding, and has no loss of its own",
        design=Design(whole_code=True),
        settings=(("bottleneck", 0.0),),
    ),
    Arm(
        "without sampled identity",
        "the identity loss is on one-step predictions",
        strengths=(1.3,),
        settings=(("few_steps", 0),),
    ),
    Arm(
        "without face location",
        "the triplet, trained without face location and pose ControlNet, and sampled without face location",
        design=Design(location=False),
        settings=(("drop_pose", 1.0), *_UNLOCATED),
        sampling=SamplingSettings(located=False),
    ),
    Arm(
        POSELESS,
        "the triplet sampled without the pose ControlNet; it finds the face by itself",
        of=TRIPLET,
        sampling=_ALONE,
    ),
    Arm(NONE_POSELESS, "the base model without the pose ControlNet", trains=False, sampling=_ALONE),
)
NOT_REQUESTED = "not requested in this run"


def arm(name: str) -> Arm:
    found = next((arm for arm in ARMS if arm.name == name), None)
    if found is None:
        raise FaceCDMError(f"there is no arm {name!r}; there are {', '.join(arm.name for arm in ARMS)}")
    return found


def trained_as(arm_: Arm) -> Arm:
    """The arm whose training it uses."""
    return arm(arm_.of) if arm_.of else arm_


def plan(arm_: Arm, recipe: Config, seed: int) -> tuple[Stage, ...]:
    """The arm's stages. It sees `length` times as many pictures as the whole recipe, distributed as in the recipe."""
    all_stages = recipe.plan()
    stages = [stage for stage in all_stages if stage.name in arm_.stages]
    if not stages:
        raise FaceCDMError(f"the recipe has none of the stages of {arm_.name!r}: {', '.join(arm_.stages)}")
    share = arm_.length * sum(_pictures(stage) for stage in all_stages) / sum(_pictures(stage) for stage in stages)
    return tuple(_stage(arm_, stage, max(round(share * stage.steps), 1), seed) for stage in stages)


def _pictures(stage: Stage) -> int:
    return stage.steps * stage.batch


def _stage(arm_: Arm, stage: Stage, steps: int, seed: int) -> Stage:
    """The recipe's stage as the arm trains it. Ramps end within a quarter of it."""
    own = {}
    for key, value in arm_.settings:
        where, _, name = key.rpartition(".")
        own |= {name: value} if where in ("", stage.name) else {}
    changed = {
        "steps": steps,
        "seed": seed,
        "validate_every": 10**9,
        "location_steps": 0,  # all arms share one location head
        "train": [group for group in (*stage.train, *arm_.trained) if group not in arm_.frozen],
        **{name: min(getattr(stage, name), steps // 4) for name in ("warmup", "identity_ramp")},
    }
    return stage.with_settings(**changed, **own)


def config_of(stages: tuple[Stage, ...], recipe: Config, **files) -> Config:
    """A training configuration with exactly these stages."""
    missing = {name: {"steps": 0} for name in ("broad", "identity", "fine")}
    own = {stage.name: {name: value for name, value in stage.to_dict().items() if name != "name"} for stage in stages}
    return recipe.model_copy(
        update={"all": {}, "stages": missing | own, "held_out": 0.0, "tracker": None, "name": "adapter", **files}
    )


def with_strength(sampling: SamplingSettings, strength: float) -> SamplingSettings:
    return replace(sampling, face=strength * sampling.face, image=strength * sampling.image)
