"""The YAML configuration of a training run from the shell; every key is checked."""

import os
from os.path import expanduser  # keeps the ~ of an unknown user; Path would raise
from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError

from ..documents import read_yaml
from ..errors import BadFile, FaceCDMError
from ..files import check_filename
from .held_out import HELD_OUT
from .stages import PRESETS, Stage, preset


class Sizes(BaseModel):
    """Sizes of a new adapter (see adapter.config.AdapterConfig).

    face_content    features of the person in each face token; None: set by the number of tokens
    knots           noise levels at which the gates are learnt; None: AdapterConfig's default
    spatial_tokens  whether the face tokens are initialised as positions in the face (see position_init.py); formerly
                    `places`, which is still read
    token_width     features of a token; this and the next two are for DiTs, and None leaves them at their defaults
    cell_width      inner width of a cell, a multiple of 64
    cell_every      blocks from one cell to the next
    """

    model_config = ConfigDict(extra="forbid")
    face_tokens: Annotated[int, Field(ge=1, le=1296)] = 4
    face_content: Annotated[int, Field(ge=0, le=512)] | None = None
    face_rank: Annotated[int, Field(ge=4, le=512)] = 128
    image_tokens: Annotated[int, Field(ge=1, le=64)] = 8
    image_layers: Annotated[int, Field(ge=1, le=8)] = 2
    interplay: bool = False
    router: bool = False
    knots: Annotated[int, Field(ge=1, le=64)] | None = None
    spatial_tokens: Annotated[bool, Field(validation_alias=AliasChoices("spatial_tokens", "places"))] = True
    token_width: Annotated[int, Field(ge=64, le=8192)] | None = None
    cell_width: Annotated[int, Field(ge=64, le=8192, multiple_of=64)] | None = None
    cell_every: Annotated[int, Field(ge=1, le=100)] | None = None

    def given(self) -> dict:
        """The sizes for `random_adapter`."""
        return self.model_dump(exclude={"spatial_tokens"}, exclude_none=True)


class Config(BaseModel):
    """The configuration of a training run.

    base        "demo", or a model folder as diffusers saves it
    data        a folder that `python -m facecdm dataset` made with the same base
    out         the run's folder: checkpoints, pictures, and the trained weights
    name        name of the adapter's file in `out`
    preset      one of stages.PRESETS; `all` and `stages` override its settings
    adapter     an adapter to begin with; without it, a new one with `sizes`
    lora        the LoRA that belongs to that adapter
    recogniser  InsightFace's ONNX file that embedded the data set, for the identity loss
    control     a pose ControlNet: a folder as diffusers saves it, or for the demo model "demo", or a file that
                `python -m facecdm demo train-pose` wrote
    all         settings for all stages
    stages      settings by stage
    held_out    share of the people that is not trained on; share of the pictures if there are few people
    tracker     a tracker that accelerate supports, such as tensorboard or wandb
    device      cpu, cuda, cuda:1 …; without it, the GPU if there is one
    threads     CPU threads; 0 leaves the choice to torch
    """

    model_config = ConfigDict(extra="forbid")
    base: str = "demo"
    data: Path
    out: Path
    name: str = "adapter"
    preset: str = "adapter"
    adapter: Path | None = None
    lora: Path | None = None
    sizes: Sizes = Sizes()
    recogniser: Path | None = None
    control: Path | None = None
    all: dict = {}
    stages: dict[str, dict] = {}
    held_out: Annotated[float, Field(ge=0, lt=1)] = HELD_OUT
    tracker: str | None = None
    device: str | None = None
    threads: Annotated[int, Field(ge=0)] = 0

    def plan(self) -> tuple[Stage, ...]:
        """The stages with their settings; `steps: 0` leaves a stage out. Raises FaceCDMError."""
        stages = preset(self.preset)
        unknown = self.stages.keys() - {stage.name for stage in stages}
        if unknown:
            raise FaceCDMError(
                f"stages: {', '.join(sorted(unknown))} is none of {', '.join(stage.name for stage in stages)}"
            )
        settings = [(stage, self.all | self.stages.get(stage.name, {})) for stage in stages]
        plan = tuple(stage.with_settings(**values) for stage, values in settings if values.get("steps") != 0)
        if not plan:
            raise FaceCDMError("every stage has steps: 0, so there is nothing to train")
        names = [check_filename(stage.name) for stage in plan]
        if len(set(names)) < len(names):
            raise FaceCDMError(f"two stages are named {max(names, key=names.count)!r}: each needs a name of its own")
        return plan


def read(path: Path) -> Config:
    """Read and check the file; its paths are relative to it, or begin with ~.

    Raises FaceCDMError, BadFile (lists all mistakes).
    """
    try:
        config = Config.model_validate(read_yaml(path))
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, mistake['loc'])) or 'file'}: {mistake['msg']}" for mistake in error.errors()]
        raise BadFile(f"{path}: " + "; ".join(lines) + f". Known presets: {', '.join(PRESETS)}") from error
    config.plan()
    check_filename(config.name)
    here = path.parent
    out = here / expanduser(config.out)
    if os.path.exists(out) and not os.path.isdir(out):  # also False for a name that is too long
        raise BadFile(f"{path}: out ({config.out}) is a file: name a folder")
    found = {
        name: here / expanduser(value)
        for name in ("data", "out", "adapter", "lora", "recogniser", "control")
        if (value := getattr(config, name)) is not None and not (name == "control" and str(value) == "demo")
    }
    base = config.base if config.base == "demo" else str(here / expanduser(config.base))
    return config.model_copy(update=found | {"base": base})
