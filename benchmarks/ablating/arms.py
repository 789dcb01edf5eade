"""The arms of the experiment, each an entry of one table: in what it differs from the full triplet."""

from dataclasses import dataclass, field, replace

from facecdm.errors import FaceCDMError
from facecdm.training.config import Config
from facecdm.training.stages import Stage


@dataclass(frozen=True)
class Design:
    """The adapter that a training begins with.

    `faceid`: the face's tokens come from IP-Adapter FaceID's plain MLP, as wide as makes the adapter as large as the
    triplet, and its gates are constant over the noise. `whole_code`: the bottleneck's code holds all of the embedding.
    """

    image: bool = True
    interplay: bool = True
    router: bool = False
    places: bool = True
    faceid: bool = False
    whole_code: bool = False


@dataclass(frozen=True)
class Drawing:
    """How an arm's pictures are drawn: strengths of the streams, κ of both (None: as it was learnt), under the pose net
    where there is one, and there adapters whose tokens are places are told where the face is to be."""

    face: float = 1.0
    image: float = 1.0
    kappa: float | None = None
    pose: bool = True
    told: bool = True


@dataclass(frozen=True)
class Arm:
    """`says` in a line what it is. `settings` override every stage's, `frozen` groups learn nothing, and only the
    stages in `stages` take place. An arm `of` another one draws with that one's training.
    """

    name: str
    says: str
    headline: bool = False  # three trainings instead of one
    design: Design = field(default_factory=Design)
    settings: tuple[tuple[str, object], ...] = ()
    frozen: tuple[str, ...] = ()
    stages: tuple[str, ...] = ("broad", "identity", "fine")
    drawing: Drawing = field(default_factory=Drawing)
    of: str = ""
    trains: bool = True


NONE, FACE, TRIPLET = "no identity", "face alone", "triplet"
_POSELESS = Drawing(pose=False, told=False)
_FACEID = Design(image=False, interplay=False, faceid=True)

ARMS: tuple[Arm, ...] = (
    Arm(NONE, "the base model: same prompts, same noise", trains=False),
    Arm(
        FACE,
        "IP-Adapter FaceID's design with as many weights as the triplet: MLP, decoupled attention, LoRA",
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
    Arm("without interplay", "face and image, which never meet", design=Design(interplay=False)),
    Arm("token-wise router", "the triplet, its streams weighed anew at every place", design=Design(router=True)),
    Arm(
        "κ 0",
        "the triplet drawn with κ 0: nothing of what the text says is taken out",
        of=TRIPLET,
        drawing=Drawing(kappa=0.0),
    ),
    Arm(
        "κ 1", "the triplet drawn with κ 1: all that the text says is taken out", of=TRIPLET, drawing=Drawing(kappa=1.0)
    ),
    Arm("face shown alone", "the triplet drawn without its image stream", of=TRIPLET, drawing=Drawing(image=0.0)),
    Arm("one stage", "as many steps, all of the second stage's kind: everything learns at once", stages=("identity",)),
    Arm("two stages", "as many steps, without the third stage", stages=("broad", "identity")),
    Arm("same photo", "the reference in training is the picture itself", settings=(("own_photo", 1.0),)),
    Arm(
        "without bottleneck",
        "the face's code holds all of its embedding, and has no loss of its own",
        design=Design(whole_code=True),
        settings=(("bottleneck", 0.0),),
    ),
    Arm("without places", "the face's tokens and keys begin at random", design=Design(places=False)),
    Arm(
        "untold",
        "the triplet under the same pose, and not told where the face is to be",
        of=TRIPLET,
        drawing=Drawing(told=False),
    ),
    Arm("without pose", "the triplet drawn without the pose ControlNet", of=TRIPLET, drawing=_POSELESS),
    Arm("no identity, without pose", "the base model without the pose ControlNet", trains=False, drawing=_POSELESS),
)
NOT_ASKED = "not asked for in this run"
STRENGTHS = (0.0, 0.4, 0.7, 1.0, 1.3)


def arm(name: str) -> Arm:
    found = next((arm for arm in ARMS if arm.name == name), None)
    if found is None:
        raise FaceCDMError(f"there is no arm {name!r}; there are {', '.join(arm.name for arm in ARMS)}")
    return found


def trained_as(arm_: Arm) -> Arm:
    """The arm whose training it draws with."""
    return arm(arm_.of) if arm_.of else arm_


def plan(arm_: Arm, recipe: Config, steps: int, batch: int, seed: int) -> tuple[Stage, ...]:
    """The recipe's stages as the arm has them, `steps` in all, shared out as the recipe shares out its own.

    0 leaves the recipe's own number of steps or batch. Ramps end within a quarter of their stage.
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
            stage.but(
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
    """A training's file that comes to exactly these stages."""
    missing = {name: {"steps": 0} for name in ("broad", "identity", "fine")}
    own = {stage.name: {name: value for name, value in stage.to_dict().items() if name != "name"} for stage in stages}
    return recipe.model_copy(
        update={"all": {}, "stages": missing | own, "held_out": 0.0, "tracker": None, "name": "adapter", **files}
    )


def with_strength(drawing: Drawing, strength: float) -> Drawing:
    return replace(drawing, face=strength * drawing.face, image=strength * drawing.image)
