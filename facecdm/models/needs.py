"""Required and missing model files of a workflow, a family or a face pack."""

import json
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile, FaceCDMError
from ..files import REPOSITORY
from .catalogue import PACKS, ModelFile, by_choice, by_name, with_required
from .download import target_of

WORKFLOWS = REPOSITORY / "workflows" / "api"
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".onnx")


@dataclass(frozen=True)
class Needs:
    """Required model files: `files` of the catalogue, and `unknown` names that the catalogue does not have."""

    files: tuple[ModelFile, ...]
    unknown: tuple[str, ...] = ()


def workflow_names() -> list[str]:
    return sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def needs_of(name: str, base: str | None = None) -> Needs:
    """Needs of a shipped workflow (name), a workflow in API format (path), a family, a face pack or a file (name).

    `base` limits a family to one base model. Raises FaceCDMError for an unknown name, BadFile for a file that is not
    a workflow.
    """
    if name in PACKS:
        return Needs((PACKS[name],))
    if name in workflow_names():
        return of_workflow(WORKFLOWS / f"{name}.json")
    if (family := of_family(name, base)) is not None:
        return family
    if file := by_choice(name) or by_name(name):
        return Needs((file,))
    if name.endswith(".json"):
        return of_workflow(Path(name))
    raise FaceCDMError(
        f"{name!r} is no workflow, family, face pack or file of the table. Workflows: {', '.join(workflow_names())}. "
        f"Face packs: {', '.join(PACKS)}. `python -m facecdm get --list` shows all."
    )


def of_workflow(path: Path) -> Needs:
    """All models named by the widgets of a workflow in API format. Raises BadFile."""
    try:
        return of_nodes(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFile(f"{path} is no workflow in API form (Workflow > Export (API)): {str(error)[:200]}") from error


def of_nodes(nodes: dict) -> Needs:
    """All models named by the widgets of these nodes."""
    files: dict[ModelFile, None] = {}
    unknown: dict[str, None] = {}
    for node in nodes.values():
        is_pack = str(node["class_type"]) == "FaceCDMLoadFaceAnalyzer"
        for name, value in node["inputs"].items():
            if not isinstance(value, str):
                continue
            file = PACKS.get(value) if is_pack and name == "pack" else by_choice(value)
            if file is not None:
                files[file] = None
            elif value.lower().endswith(SUFFIXES):
                unknown[value] = None
    return Needs(tuple(files), tuple(unknown))


def of_family(key: str, base: str | None = None) -> Needs | None:
    """The files of a published family and all files they require, for one base model or all. None for other names."""
    from ..formats.families import FAMILIES  # imports torch

    if key not in FAMILIES:
        return None
    names = [name for model, name in FAMILIES[key].files.items() if base in (None, model)]
    found = [by_choice(name) or by_name(name) for name in names]
    files = dict.fromkeys(part for file in found if file is not None for part in with_required(file))
    return Needs(tuple(files), tuple(name for name, file in zip(names, found) if file is None))


def missing(files: tuple[ModelFile, ...], models: Path) -> list[ModelFile]:
    return [file for file in files if not target_of(file, models).exists()]
