"""Load EVA CLIP: the image tower that PuLID looks at faces with."""

from pathlib import Path

from comfy_api.latest import io

from ..facecdm.errors import MissingModel
from ..facecdm.formats import bisenet, eva
from ..facecdm.formats.read import tensors_of

NO_FILE = "none found"
FOLDERS = ("pulid", "clip_vision", "facexlib")


def files(word: str) -> dict[str, Path]:
    """Name as ComfyUI lists it → path of the files in PuLID's folders whose name has `word` in it."""
    import folder_paths

    found = {}
    for key in FOLDERS:
        for name in folder_paths.get_filename_list(key):
            if word in name.lower():
                found.setdefault(name, Path(folder_paths.get_full_path_or_raise(key, name)))
    return found


def tower_file(name: str) -> Path:
    """Raises MissingModel."""
    found = files("eva")
    if name not in found:
        raise MissingModel(
            f"There is no file {name} in models/clip_vision or models/pulid. PuLID looks with "
            f"{eva.FILE} (QuanSun/EVA-CLIP on Hugging Face): put it into models/clip_vision, then "
            "refresh the list (R)."
        )
    return found[name]


class LoadEvaClip(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadEvaClip",
            display_name="Load EVA CLIP (PuLID)",
            category="FaceCDM/adapter",
            description="The image tower that PuLID looks at faces with, for clip_vision of Apply FaceCDM. Core's Load "
            "CLIP Vision cannot read it.",
            inputs=[
                io.Combo.Input(
                    "name",
                    options=list(files("eva")) or [NO_FILE],
                    tooltip="A file of EVA02-CLIP-L-336 in models/clip_vision or models/pulid.",
                )
            ],
            outputs=[
                io.ClipVision.Output(tooltip="For Apply FaceCDM with a PuLID adapter."),
                io.String.Output(display_name="report", tooltip="Which files look at the face, and how."),
            ],
        )

    @classmethod
    def validate_inputs(cls, name=None):
        try:
            return name is None or tower_file(name).is_file()
        except MissingModel as error:
            return str(error)

    @classmethod
    def execute(cls, name) -> io.NodeOutput:
        from ..facecdm.hosts.comfy.eva import EvaVision

        path = tower_file(name)
        parser = next(iter(files(bisenet.FILE).values()), None)
        tower = eva.load_eva(tensors_of(path)[0], path)
        vision = EvaVision(tower, bisenet.load_parser(parser) if parser else None)
        told = (
            f"whitened by {parser}"
            if parser
            else "an oval around the face, which keeps some of the background. PuLID's authors whiten it with "
            f"{bisenet.FILE} of facexlib: put that file into models/facexlib for the same"
        )
        return io.NodeOutput(vision, f"tower: {path}\nbackground: {told}")


NODES: list[type[io.ComfyNode]] = [LoadEvaClip]
