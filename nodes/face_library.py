"""Combine Faces, Save Faces, Load Faces and Compare Faces."""

from functools import partial

from comfy_api.latest import io, ui

from ..facecdm.errors import FaceCDMError
from ..facecdm.faces.combine import MODES, Weighted, combine
from ..facecdm.faces.compare import compare, table
from ..facecdm.faces.draw import heat_map
from ..facecdm.faces.library import find_faces_file, load_faces, save_faces
from ..facecdm.files import file_fingerprint
from .checks import checked, validity
from .inputs import choice, number, optional, switch
from .model_folders import SAVED_FACES, folders
from .new_fields import aliases
from .sockets import FACES
from .warn import output

GROUPS = 4
NO_FILE = "none saved yet"


def saved_names() -> list[str]:
    import folder_paths

    return folder_paths.get_filename_list(SAVED_FACES)


class CombineFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        inputs = [
            choice(
                "mode",
                MODES,
                "weighted mean",
                "One face as the weighted mean, a list of all faces, or one face between two people.",
            ),
            number("blend", 0.5, 0.0, 1.0, 0.01, "For 'blend two people': 0 is the first, 1 the second."),
        ]
        for n in range(1, GROUPS + 1):
            inputs.append(
                FACES.Input(f"faces_{n}", optional=n > 1, tooltip="Faces of one person, or a group that counts as one.")
            )
        for n in range(1, GROUPS + 1):
            inputs.append(
                number(
                    f"weight_{n}",
                    1.0,
                    0.0,
                    10.0,
                    0.05,
                    f"Weight of faces_{n} in the mean; 0 leaves it out.",
                    optional=True,
                )
            )
        return io.Schema(
            node_id="FaceCDMCombineFaces",
            display_name="Combine Faces",
            category="FaceCDM/faces",
            **aliases("average faces", "mix faces", "consistent character"),
            description="Combines faces into one identity, a blend of two people, or a list.",
            inputs=inputs,
            outputs=[FACES.Output(display_name="faces", tooltip="The combined face, or all faces.")],
        )

    @classmethod
    @checked
    def execute(cls, mode, blend, faces_1, **others) -> io.NodeOutput:
        groups = [faces_1] + [others.get(f"faces_{n}") for n in range(2, GROUPS + 1)]
        parts = [
            Weighted(faces, others.get(f"weight_{n}", 1.0)) for n, faces in enumerate(groups, 1) if faces is not None
        ]
        return io.NodeOutput(combine(parts, mode, blend))


class SaveFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMSaveFaces",
            display_name="Save Faces",
            category="FaceCDM/faces",
            **aliases("face library", "consistent character"),
            description="Saves faces in models/facecdm_faces. Load Faces reads them without the photo or a face model.",
            is_output_node=True,
            inputs=[
                FACES.Input("faces", tooltip="The faces to save."),
                io.String.Input("name", default="face", tooltip="File name; letters, digits, spaces, - and _."),
                switch("overwrite", False, "Replace a file of this name; otherwise _2, _3 … is appended."),
            ],
            outputs=[
                FACES.Output(display_name="faces", tooltip="The same faces."),
                io.String.Output(display_name="file", tooltip="Name of the written file, for Load Faces."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, faces, name: str, overwrite: bool) -> io.NodeOutput:
        path = save_faces(faces, folders(SAVED_FACES)[0], name, overwrite)
        return io.NodeOutput(faces, path.name)


class LoadFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadFaces",
            display_name="Load Faces",
            category="FaceCDM/faces",
            **aliases("face library", "consistent character"),
            description="Loads faces that Save Faces wrote into models/facecdm_faces.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=saved_names() or [NO_FILE],
                    tooltip="A file of the library; press R to refresh the list.",
                )
            ],
            outputs=[FACES.Output(display_name="faces", tooltip="The saved faces.")],
        )

    @classmethod
    def validate_inputs(cls, file: str | None = None) -> bool | str:
        return validity("file", file, partial(find_faces_file, folders(SAVED_FACES)))

    @classmethod
    def fingerprint_inputs(cls, file: str | None = None) -> str:
        if file is None:
            return ""
        try:
            return file_fingerprint(find_faces_file(folders(SAVED_FACES), file))
        except (FaceCDMError, OSError):
            return "missing"

    @classmethod
    @checked
    def execute(cls, file: str) -> io.NodeOutput:
        return io.NodeOutput(load_faces(find_faces_file(folders(SAVED_FACES), file)))


class CompareFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMCompareFaces",
            display_name="Compare Faces",
            category="FaceCDM/faces",
            **aliases("identity similarity", "face similarity"),
            description="Compares faces: the cosine similarity of every pair, as a table and a heat map.",
            is_output_node=True,
            inputs=[
                FACES.Input("faces_a", tooltip="The rows."),
                optional(FACES, "faces_b", "The columns. Without it, faces_a are compared with each other."),
                optional(
                    FACES,
                    "baseline",
                    "Other people in the same kind of picture. Their mean embedding is subtracted first "
                    "(for renders and drawings).",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table", tooltip="Markdown table of the cosines."),
                io.Image.Output(display_name="heat map", tooltip="The same as a picture."),
                io.Float.Output(display_name="mean", tooltip="Mean over the pairs of different faces."),
                io.Float.Output(display_name="lowest", tooltip="Lowest similarity of a pair."),
                io.Float.Output(display_name="highest", tooltip="Highest similarity of a pair."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, faces_a, faces_b=None, baseline=None) -> io.NodeOutput:
        result = compare(faces_a, faces_b, baseline)
        picture = heat_map(result)
        preview = ui.PreviewImage(picture, cls=cls)
        return output(table(result), picture, result.mean, result.lowest, result.highest, preview=preview)


NODES: list[type[io.ComfyNode]] = [CombineFaces, SaveFaces, LoadFaces, CompareFaces]
