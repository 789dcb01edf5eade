"""Load EVA CLIP: PuLID's vision tower."""

from pathlib import Path

from comfy_api.latest import io

from ..facecdm.errors import MissingModel
from ..facecdm.files import file_fingerprint
from ..facecdm.formats import bisenet, eva
from ..facecdm.formats.vision import FaceTower
from ..facecdm.invocation import command_line
from ..facecdm.tensor_file import read_tensors
from .checks import checked, validity
from .new_fields import aliases

NO_FILE = "none found"
OVAL = (
    "all but an oval around the face is taken for background, which cuts off long hair and keeps some of the real "
    f"background. PuLID's authors use facexlib's face parser: put {bisenet.FILE} into models/facexlib to do the same"
)
FOLDERS = ("pulid", "clip_vision", "facexlib")


def files(part: str) -> dict[str, Path]:
    """Find files with `part` in their name in PuLID's folders: ComfyUI's name → path."""
    import folder_paths

    found = {}
    for key in FOLDERS:
        for name in folder_paths.get_filename_list(key):
            if part in name.lower():
                found.setdefault(name, Path(folder_paths.get_full_path_or_raise(key, name)))
    return found


def tower_file(name: str) -> Path:
    """Find the tower's file. Raises MissingModel."""
    found = files("eva")
    if name not in found:
        raise MissingModel(
            f"There is no file {name} in models/clip_vision or models/pulid. PuLID needs "
            f"{eva.FILE}: put it into models/clip_vision (`{command_line(f'get {eva.FILE}')}` in the pack's folder "
            "does that), then refresh the list (R)."
        )
    return found[name]


def parser_file() -> Path | None:
    """The face parser's file, if there is one."""
    return next(iter(files(bisenet.FILE).values()), None)


class LoadEvaClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadEvaClip",
            display_name="Load EVA CLIP (PuLID)",
            category="FaceCDM/adapter",
            **aliases("pulid", "eva02"),
            description="Loads PuLID's vision tower, for clip_vision of Apply FaceCDM. Core's Load CLIP Vision cannot "
            "read it.",
            inputs=[
                io.Combo.Input(
                    "name",
                    options=list(files("eva")) or [NO_FILE],
                    tooltip="An EVA02-CLIP-L-336 file in models/clip_vision or models/pulid.",
                )
            ],
            outputs=[
                io.ClipVision.Output(tooltip="For Apply FaceCDM with a PuLID adapter."),
                io.String.Output(display_name="report", tooltip="The files, and how the background is found."),
            ],
        )

    @classmethod
    def validate_inputs(cls, name=None):
        return validity("name", name, tower_file)

    @classmethod
    def fingerprint_inputs(cls, name=None) -> str:
        return f"{file_fingerprint(files('eva').get(name))}/{file_fingerprint(parser_file())}"

    @classmethod
    @checked
    def execute(cls, name) -> io.NodeOutput:
        return io.NodeOutput(*load(tower_file(name)))


def load(path: Path) -> tuple[FaceTower, str]:
    """Return (the tower, with the face parser if its file is found; a report of both). Raises BadFile."""
    from ..facecdm.hosts.comfy.eva import EvaVision

    parser = parser_file()
    tower = eva.load_eva(read_tensors(path)[0], path)
    vision = EvaVision(tower, bisenet.load_parser(parser) if parser else None)
    background = f"face parser {parser}" if parser else OVAL
    return vision, f"tower: {path}\nbackground: {background}"


NODES: list[type[io.ComfyNode]] = [LoadEvaClip]
