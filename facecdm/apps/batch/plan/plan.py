"""A plan as the user writes it: workflow, varied inputs, servers, output folder."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from ....comfy_api.workflow import Workflow
from ....documents import is_deep, read_yaml
from ....errors import BadFile
from ..errors import PlanMistake
from .folders import Folders
from .rows import ROW_FILES

Target = str | list[str] | None
Group = dict[str, Any] | list[dict[str, Any]] | str


class RayPlan(BaseModel):
    """ComfyUI on the nodes of a Ray cluster. All paths are paths on those nodes."""

    model_config = ConfigDict(extra="forbid")

    comfyui: str = Field(description="the ComfyUI folder")
    base: str | None = Field(None, description="its base directory, if that is another folder")
    python: str | None = Field(None, description="the Python that runs it (default: Ray's own)")
    workers: int = Field(1, ge=1, le=1000)
    gpus: float = Field(0, ge=0, description="GPUs of a worker; 0 starts ComfyUI with --cpu")
    cpus: float = Field(1, ge=0)
    address: str | None = Field(None, description="of the cluster (default: Ray on this machine alone)")
    arguments: list[str] = Field(default_factory=list, description="more arguments for ComfyUI")


class Plan(BaseModel):
    """A batch. Relative paths start at the plan's folder, or at the current folder if the plan is not a file."""

    model_config = ConfigDict(extra="forbid")

    workflow: str | dict[str, Any]
    servers: list[str] = Field(default_factory=list)
    ray: RayPlan | None = None
    output: Path = Path("output/batch")
    inputs: dict[str, Target] = Field(
        default_factory=dict, description='short name → "Node.input", a node by id, title or class; or a list of them'
    )
    jobs: list[Group] = Field(
        min_length=1, description="groups: lists within one go together, groups multiply; or a CSV or JSONL file"
    )
    name: str | None = Field(
        None, description="of the images, without suffix: {short name}, {short name#} (number of its value), {job}"
    )
    person: str = Field("person", description="short name of the reference: sheets, identity similarity, keep_best")
    prompt: str = Field("prompt", description="short name of the prompt: sheets, keep_best")
    attempts: int = Field(3, ge=1, le=100, description="how often a failing job is tried")
    patience: float = Field(20, gt=0, description="seconds until a silent server's jobs go to others")
    give_up: float = Field(600, ge=0, description="seconds without any server until the batch stops")
    timeout: float | None = Field(None, gt=0, description="seconds of one attempt at a job, up- and downloads included")
    file_limit: int = Field(256, ge=1, description="MiB of one result")
    keep_best: int | None = Field(None, ge=1, description="images that stay for each person and prompt")
    base: Path | None = Field(None, description="folder whose models/insightface measures identity similarity")
    pack: str | None = Field(None, description="face pack that measures it (default: faces.packs.default_pack)")

    _folders: Folders = PrivateAttr(default_factory=lambda: Folders(Path()))

    @field_validator("servers", mode="before")
    @classmethod
    def _one_server(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("jobs", mode="before")
    @classmethod
    def _one_group(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict | str) else value

    @classmethod
    def make(cls, keys: Any, folder: Path | None = None, files_from: list[Path] | None = None) -> "Plan":
        """Make a plan from parsed keys. Raises PlanMistake with all mistakes; `Plan(…)` would raise ValidationError.

        folder      the plan's folder
        files_from  more folders whose files it may read
        """
        if not isinstance(keys, dict):
            raise PlanMistake(["a plan is a mapping with the keys workflow, servers, inputs, jobs …"])
        if is_deep(keys):
            raise PlanMistake(["a plan is not nested so deeply"])
        try:
            plan = cls(**keys)
        except ValidationError as error:
            raise PlanMistake([_line(mistake) for mistake in error.errors()]) from error
        except TypeError as error:  # a key is not text
            raise PlanMistake([f"its keys are not all text: {error}"]) from error
        plan._folders = Folders(Path(folder or "."), files_from)
        return plan

    @classmethod
    def load(cls, path: Path, files_from: list[Path] | None = None, **changed: Any) -> "Plan":
        """Read YAML, JSON, CSV or JSONL. Raises PlanMistake.

        files_from  more folders whose files it may read
        changed     keys to replace; a CSV or JSONL file only has `jobs`
        """
        path = Path(path)
        if path.suffix.lower() in ROW_FILES:
            return cls.make({"jobs": [path.name], **changed}, path.parent, files_from)
        try:
            keys = read_yaml(path)
        except OSError as error:
            raise PlanMistake([f"cannot read {path}: {error.strerror}"]) from error
        except BadFile as error:
            raise PlanMistake([str(error)]) from error
        return cls.make({**keys, **changed} if isinstance(keys, dict) else keys, path.parent, files_from)

    @property
    def folders(self) -> Folders:
        return self._folders

    def at(self, path: str | Path) -> Path:
        """Resolve a path in the plan against the plan's folder."""
        return self._folders.at(path)

    def read_workflow(self) -> Workflow:
        """Read the workflow file. Raises WorkflowMistake."""
        if isinstance(self.workflow, dict):
            return Workflow.parse(json.loads(json.dumps(self.workflow)))
        return Workflow.load(self.at(self.workflow))


def _line(mistake: dict[str, Any]) -> str:
    key = ".".join(map(str, mistake["loc"]))
    reason = {"missing": "is missing", "extra_forbidden": "is no key of a plan"}.get(mistake["type"])
    return f"{key}: {reason or mistake['msg']}"
