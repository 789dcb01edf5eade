"""Required and missing model files of a workflow, a family or a face pack."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import BadFile, FaceCDMError
from ..files import REPOSITORY
from ..invocation import command_line
from .catalogue import by_choice, by_name, of_pack, pack_names, with_required
from .model_file import ModelFile

TEMPLATES = REPOSITORY / "workflows"
WORKFLOWS = TEMPLATES / "api"
NOTES = ("Note", "MarkdownNote")
SUFFIXES = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".onnx")


@dataclass(frozen=True)
class Needs:
    """Required model files: `files` of the catalogue, and `unknown` names that the catalogue does not have."""

    files: tuple[ModelFile, ...]
    unknown: tuple[str, ...] = ()


def workflow_names() -> list[str]:
    return sorted(path.stem for path in WORKFLOWS.glob("*.json"))


def family_names() -> list[str]:
    """All published families with files in the table. Empty without torch."""
    try:
        from ..formats.families import FAMILIES
    except ImportError:  # the doctor reports it
        return []
    return [name for name, family in FAMILIES.items() if family.files]


def needs_of(name: str, base: str | None = None) -> Needs:
    """Needs of a workflow (path, or a shipped one's name or title), a family, a face pack or a file (name).

    `base` limits a family to one base model. Raises FaceCDMError for an unknown name or a family without files,
    BadFile for a file that is not a workflow.
    """
    if pack := of_pack(name):
        return Needs(pack)
    if name in workflow_names():
        return of_workflow(WORKFLOWS / f"{name}.json")
    if (template := TEMPLATES / f"{name.removesuffix('.json')}.json").is_file():
        return of_workflow(template)
    if (family := of_family(name, base)) is not None:
        return family
    if file := by_choice(name) or by_name(name):
        return Needs((file,))
    if name.endswith(".json"):
        return of_workflow(Path(name))
    raise FaceCDMError(
        f"{name!r} is no workflow, family, face pack or file of the table. Workflows: {', '.join(workflow_names())}. "
        f"Face packs: {', '.join(pack_names())}. `{command_line('get --list')}` shows all."
    )


def of_workflow(path: Path) -> Needs:
    """All models named by the widgets of a workflow, in API format or as ComfyUI saves it. Raises BadFile."""
    try:
        return of_nodes(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadFile(f"{path} is no workflow that ComfyUI saved or exported: {str(error)[:200]}") from error


def widgets(workflow: dict) -> Iterator[tuple[str, object]]:
    """Node type and value of every widget. Links and other inputs may be among them."""
    if not isinstance(workflow.get("nodes"), list):
        yield from ((node["class_type"], value) for node in workflow.values() for value in node["inputs"].values())
        return
    for graph in (workflow, *workflow.get("definitions", {}).get("subgraphs", ())):
        for node in graph["nodes"]:
            values = node.get("widgets_values") or ()
            yield from ((node["type"], value) for value in (values.values() if isinstance(values, dict) else values))


def of_nodes(workflow: dict) -> Needs:
    """All models named by the widgets of a loaded workflow."""
    files: dict[ModelFile, None] = {}
    unknown: dict[str, None] = {}
    for kind, value in widgets(workflow):
        if not isinstance(value, str) or kind in NOTES:
            continue
        if kind == "FaceCDMLoadFaceAnalyzer":
            files |= dict.fromkeys(of_pack(value))
        elif file := by_choice(value):
            files[file] = None
        elif value.lower().endswith(SUFFIXES):
            unknown[value] = None
    return Needs(tuple(files), tuple(unknown))


def of_family(key: str, base: str | None = None) -> Needs | None:
    """The files of a published family and all files they require, for one base model or all. None for other names.

    Raises FaceCDMError if there are none.
    """
    from ..formats.families import FAMILIES  # imports torch

    if key not in FAMILIES:
        return None
    names = [name for model, name in FAMILIES[key].files.items() if base in (None, model)]
    if not names:
        bases = ", ".join(FAMILIES[key].files) or "none: docs/formats.md says where its files are"
        raise FaceCDMError(f"the table has no file of {key}{f' for {base}' if base else ''}; it has files for {bases}")
    found = [by_choice(name) or by_name(name) for name in names]
    files = dict.fromkeys(part for file in found if file is not None for part in with_required(file))
    return Needs(tuple(files), tuple(name for name, file in zip(names, found) if file is None))
