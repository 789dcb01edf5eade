"""What a person writes: a workflow, what varies in it, which servers, and where to."""

import json
from os.path import expanduser  # leaves the ~ of an unknown user, where Path raises
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator

from .errors import PlanMistake
from .rows import ROW_FILES

Target = str | list[str] | None
Group = dict[str, Any] | list[dict[str, Any]] | str


class RayPlan(BaseModel):
    """ComfyUI on the nodes of a Ray cluster; every path is one on those nodes."""

    model_config = ConfigDict(extra="forbid")

    comfyui: str = Field(description="the ComfyUI folder")
    base: str | None = Field(None, description="its base directory, where that is another folder")
    python: str | None = Field(None, description="the Python that runs it (default: Ray's own)")
    workers: int = Field(1, ge=1, le=1000)
    gpus: float = Field(0, ge=0, description="GPUs of a worker; 0 starts ComfyUI with --cpu")
    cpus: float = Field(1, ge=0)
    address: str | None = Field(None, description="of the cluster (default: Ray on this machine alone)")
    arguments: list[str] = Field(default_factory=list, description="more arguments for ComfyUI")


class Plan(BaseModel):
    """A batch. Relative paths are seen from the plan's folder, or from the current one where it is no file.

    inputs   short name → "Node.input", a node by id, title or class; a list where one value goes to several
    jobs     groups: lists within a group go together, groups multiply; a group may be a CSV or JSONL file
    name     of the pictures, without suffix: {short name}, {short name#} (which one of its values), {job}
    person, prompt   which short names say who is shown and what (contact sheets, identity, keep_best)
    """

    model_config = ConfigDict(extra="forbid")

    workflow: str | dict[str, Any]
    servers: list[str] = Field(default_factory=list)
    ray: RayPlan | None = None
    output: Path = Path("output/batch")
    inputs: dict[str, Target] = Field(default_factory=dict)
    jobs: list[Group] = Field(min_length=1)
    name: str | None = None
    person: str = "person"
    prompt: str = "prompt"
    attempts: int = Field(3, ge=1, le=100, description="how often a job is tried that fails")
    patience: float = Field(20, gt=0, description="seconds until a silent server's jobs go to others")
    give_up: float = Field(600, ge=0, description="seconds without any server until the batch stops")
    timeout: float | None = Field(None, gt=0, description="seconds that a job may take")
    file_limit: int = Field(256, ge=1, description="MiB that one result may have")
    keep_best: int | None = Field(None, ge=1, description="pictures that stay for each person and prompt")
    base: Path | None = Field(None, description="folder whose models/insightface measures identity")
    pack: str = Field("buffalo_s", description="face pack that measures identity")

    _folder: Path = PrivateAttr(default_factory=Path)

    @field_validator("servers", mode="before")
    @classmethod
    def _one_server(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("jobs", mode="before")
    @classmethod
    def _one_group(cls, value: Any) -> Any:
        return [value] if isinstance(value, dict | str) else value

    @classmethod
    def make(cls, keys: Any, folder: Path | None = None) -> "Plan":
        """Raises PlanMistake, with all mistakes, where `Plan(…)` raises pydantic's ValidationError."""
        if not isinstance(keys, dict):
            raise PlanMistake(["a plan is a mapping with the keys workflow, servers, inputs, jobs …"])
        try:
            plan = cls(**keys)
        except ValidationError as error:
            raise PlanMistake([_line(mistake) for mistake in error.errors()]) from error
        except TypeError as error:  # a key that is not text
            raise PlanMistake([f"its keys are not all text: {error}"]) from error
        plan._folder = Path(folder or ".")
        return plan

    @classmethod
    def load(cls, path: Path, **changed: Any) -> "Plan":
        """Reads YAML, JSON, CSV or JSONL; `changed` replaces keys (a table has none but `jobs`)."""
        path = Path(path)
        if path.suffix.lower() in ROW_FILES:
            return cls.make({"jobs": [path.name], **changed}, path.parent)
        import yaml

        try:
            keys = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise PlanMistake([f"cannot read {path}: {error.strerror}"]) from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise PlanMistake([f"{path} is not YAML: {error}"]) from error
        return cls.make({**keys, **changed} if isinstance(keys, dict) else keys, path.parent)

    def at(self, path: str | Path) -> Path:
        """A path of the plan as one from here."""
        return self._folder / Path(expanduser(path))

    def read_workflow(self):
        """The Workflow; raises WorkflowMistake."""
        from ...comfy_api.workflow import Workflow

        if isinstance(self.workflow, dict):
            return Workflow.parse(json.loads(json.dumps(self.workflow)))
        return Workflow.load(self.at(self.workflow))


def _line(mistake: dict[str, Any]) -> str:
    where = ".".join(map(str, mistake["loc"]))
    told = {"missing": "is missing", "extra_forbidden": "is no key of a plan"}.get(mistake["type"])
    return f"{where}: {told or mistake['msg']}"
