"""The file of a training from the shell: YAML, every key checked."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ..errors import BadFile, FaceCDMError
from .stages import PRESETS, Stage, preset


class Sizes(BaseModel):
    """Of a new adapter and how it begins; see adapter.config.AdapterConfig and training.begin.new_adapter."""

    model_config = ConfigDict(extra="forbid")
    face_tokens: Annotated[int, Field(ge=1, le=1296)] = 4
    face_content: Annotated[int, Field(ge=0, le=512)] | None = None  # None: by their number
    face_rank: Annotated[int, Field(ge=4, le=512)] = 128
    image_tokens: Annotated[int, Field(ge=1, le=64)] = 8
    image_layers: Annotated[int, Field(ge=1, le=8)] = 2
    interplay: bool = True
    router: bool = False
    places: bool = True  # whether the face's tokens begin as places of the upright face (training.places)


class Config(BaseModel):
    """base        "demo", or a model folder as diffusers saves it
    data        a folder that `python -m facecdm dataset` made with the same base
    out         the run's folder: checkpoints, pictures, and what comes out
    preset      "adapter" or "one person"; `all` and `stages` override its numbers
    adapter     an adapter to begin with; without it a new one of `sizes`
    lora        the LoRA that belongs to it, to go on with
    recogniser  InsightFace's ONNX file that embedded the data set, for the identity loss
    control     a ControlNet folder as diffusers saves it, if the data set has pose pictures; for the demo model "demo",
                its own, or a file that `python -m facecdm demo train-pose` wrote
    held_out    share of the people who are watched and not trained on
    tracker     a tracker that accelerate knows, such as tensorboard or wandb
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
    held_out: Annotated[float, Field(ge=0, lt=1)] = 0.02
    tracker: str | None = None
    device: str | None = None
    threads: Annotated[int, Field(ge=0)] = 0

    def plan(self) -> tuple[Stage, ...]:
        """The stages with everything overridden; `steps: 0` leaves a stage out. Raises FaceCDMError."""
        stages = preset(self.preset)
        unknown = self.stages.keys() - {stage.name for stage in stages}
        if unknown:
            raise FaceCDMError(
                f"stages: {', '.join(sorted(unknown))} is none of {', '.join(stage.name for stage in stages)}"
            )
        chosen = [(stage, self.all | self.stages.get(stage.name, {})) for stage in stages]
        return tuple(stage.but(**values) for stage, values in chosen if values.get("steps") != 0)


def read(path: Path) -> Config:
    """Paths in the file are relative to it. Raises BadFile, which names every mistake."""
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        config = Config.model_validate(values)
    except OSError as error:
        raise BadFile(f"{path} cannot be read: {error}") from error
    except yaml.YAMLError as error:
        raise BadFile(f"{path} is no YAML: {error}") from error
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, mistake['loc'])) or 'file'}: {mistake['msg']}" for mistake in error.errors()]
        raise BadFile(f"{path}: " + "; ".join(lines) + f". Known presets: {', '.join(PRESETS)}") from error
    config.plan()
    here = path.parent
    found = {
        name: here / value
        for name in ("data", "out", "adapter", "lora", "recogniser", "control")
        if (value := getattr(config, name)) is not None and not (name == "control" and str(value) == "demo")
    }
    base = config.base if config.base == "demo" else str(here / config.base)
    return config.model_copy(update=found | {"base": base})
