"""The arms of the ablation. Each is one entry of a table, and differs from the full triplet in one thing."""

from dataclasses import dataclass, field, replace

from facecdm.errors import FaceCDMError
from facecdm.training.config import Config
from facecdm.training.stages import Stage


@dataclass(frozen=True)
class Design:
    """The adapter that a training starts from.

    image, interplay, router, spatial_tokens  whether it has that part
    faceid      IP-Adapter FaceID's design: an MLP so wide that the adapter is as large as the triplet, constant gates
    whole_code  no bottleneck: the code is as wide as the embedding
    """

    image: bool = True
    interplay: bool = True
    router: bool = False
    spatial_tokens: bool = True
    faceid: bool = False
    whole_code: bool = False


@dataclass(frozen=True)
class SamplingSettings:
    """How an arm's images are sampled.

    face, image  strengths of the streams
    kappa        of both streams; None: as trained
    pose         under the pose ControlNet, where there is one
    located      an adapter with spatial tokens is conditioned on face location
    """

    face: float = 1.0
    image: float = 1.0
    kappa: float | None = None
    pose: bool = True
    located: bool = True


@dataclass(frozen=True)
class Arm:
    """One arm.

    description  for the report
    headline     three trainings instead of one
    design       of its adapter
    settings     override those of every stage
    frozen       parameter groups that are not trained
    stages       the stages that are trained
    sampling     how its images are sampled
    of           the arm whose training it uses
    trains       False for the base model
    """

    name: str
    description: str
    headline: bool = False
    design: Design = field(default_factory=Design)
    settings: tuple[tuple[str, object], ...] = ()
    frozen: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("broad", "identity", "fine")
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    of: str = ""
    trains: bool = True


NONE, FACE, TRIPLET = "no identity", "face alone", "triplet"
_POSELESS = SamplingSettings(pose=False, located=False)
_FACEID = Design(image=False, interplay=False, faceid=True)

ARMS: tuple[Arm, ...] = (
    Arm(NONE, "the base model: same prompts, same noise", trains=False),
    Arm(
        FACE,
        "IP-Adapter FaceID's design with the same number of weights as the triplet: MLP, decoupled attention, LoRA",
        headline=True,
        design=_FACEID,
        settings=(("bottleneck", 0.0),),
        frozen=("kappa", "interplay"),
    ),
    Arm(TRIPLET, "face, image and interplay, in three stages", headline=True),
    Arm(
        "face alone, our gates",
        "the triplet's face stream and nothing else: bottleneck, learnt gates",
        design=Design(image=False, interplay=False),
    ),
    Arm("without interplay", "face and image stream without interplay", design=Design(interplay=False)),
    Arm("token-wise router", "the triplet with a weight per stream and position", design=Design(router=True)),
    Arm(
        "κ 0",
        "the triplet sampled with κ 0",
        of=TRIPLET,
        sampling=SamplingSettings(kappa=0.0),
    ),
    Arm(
        "κ 1",
        "the triplet sampled with κ 1",
        of=TRIPLET,
        sampling=SamplingSettings(kappa=1.0),
    ),
    Arm(
        "face shown alone",
        "the triplet sampled without its image stream",
        of=TRIPLET,
        sampling=SamplingSettings(image=0.0),
    ),
    Arm(
        "one stage",
        "the second stage only, for the same number of steps: everything is trained at once",
        stages=("identity",),
    ),
    Arm("two stages", "the same number of steps, without the third stage", stages=("broad", "identity")),
    Arm("same photo", "the reference in training is the picture itself", settings=(("own_photo", 1.0),)),
    Arm(
        "without bottleneck",
        "the code is as wide as the embedding, and has no loss of its own",
        design=Design(whole_code=True),
        settings=(("bottleneck", 0.0),),
    ),
    Arm("without spatial tokens", "face tokens and keys start at random", design=Design(spatial_tokens=False)),
    Arm(
        "without face location",
        "the triplet with the same pose ControlNet, not conditioned on face location",
        of=TRIPLET,
        sampling=SamplingSettings(located=False),
    ),
    Arm("without pose", "the triplet sampled without the pose ControlNet", of=TRIPLET, sampling=_POSELESS),
    Arm("no identity, without pose", "the base model without the pose ControlNet", trains=False, sampling=_POSELESS),
)
NOT_REQUESTED = "not requested in this run"
STRENGTHS = (0.0, 0.4, 0.7, 1.0, 1.3)


def arm(name: str) -> Arm:
    found = next((arm for arm in ARMS if arm.name == name), None)
    if found is None:
        raise FaceCDMError(f"there is no arm {name!r}; there are {', '.join(arm.name for arm in ARMS)}")
    return found


def trained_as(arm_: Arm) -> Arm:
    """The arm whose training it uses."""
    return arm(arm_.of) if arm_.of else arm_


def plan(arm_: Arm, recipe: Config, steps: int, batch: int, seed: int) -> tuple[Stage, ...]:
    """The recipe's stages for the arm: `steps` in total, distributed as in the recipe.

    0 keeps the recipe's number of steps or batch. Ramps end within a quarter of their stage.
    """
    all_stages = recipe.plan()
    stages = [stage for stage in all_stages if stage.name in arm_.stages]
    total = steps or sum(stage.steps for stage in all_stages)
    if not stages:
        raise FaceCDMError(f"the recipe has none of the stages of {arm_.name!r}: {', '.join(arm_.stages)}")
    own = sum(stage.steps for stage in stages)
    counts = [max(round(total * stage.steps / own), 1) for stage in stages]
    counts[counts.index(max(counts))] += total - sum(counts)
    result = []
    for stage, count in zip(stages, counts):
        if count < 1:
            raise FaceCDMError(f"{total} steps are too few for {len(stages)} stages")
        short = {name: min(getattr(stage, name), count // 4) for name in ("warmup", "identity_ramp")}
        result.append(
            stage.with_settings(
                **{
                    "steps": count,
                    "batch": batch or stage.batch,
                    "seed": seed,
                    "validate_every": 10**9,
                    "train": [group for group in stage.train if group not in arm_.frozen],
                    **short,
                    **dict(arm_.settings),
                }
            )
        )
    return tuple(result)


def config_of(stages: tuple[Stage, ...], recipe: Config, **files) -> Config:
    """A training configuration with exactly these stages."""
    missing = {name: {"steps": 0} for name in ("broad", "identity", "fine")}
    own = {stage.name: {name: value for name, value in stage.to_dict().items() if name != "name"} for stage in stages}
    return recipe.model_copy(
        update={"all": {}, "stages": missing | own, "held_out": 0.0, "tracker": None, "name": "adapter", **files}
    )


def with_strength(sampling: SamplingSettings, strength: float) -> SamplingSettings:
    return replace(sampling, face=strength * sampling.face, image=strength * sampling.image)
