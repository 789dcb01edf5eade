"""Prepare FaceCDM Data Set: makes the data set for Train Stage from pictures and captions."""

import hashlib
import re
from pathlib import Path

from comfy_api.latest import io, ui

from ..facecdm.errors import FaceCDMError
from ..facecdm.files import check_filename
from ..facecdm.pictures import open_picture
from ..facecdm.training.dataset.folders import inside, picture_folders
from ..facecdm.training.dataset.settings import FRAMINGS, IDENTITIES, NO_CAPTION, POSES, SEVERAL, Settings
from .checks import checked, validity
from .inputs import choice, integer, number, optional
from .new_fields import aliases
from .sockets import DATA_SET, FACE_ANALYZER
from .warn import output

IMAGES = "(the images input)"
HOME = "facecdm_data_sets"  # below ComfyUI's output folder


def input_folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_input_directory())


def data_sets_folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_output_directory()) / HOME


class PrepareDataSet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        defaults = Settings()
        return io.Schema(
            node_id="FaceCDMPrepareDataSet",
            display_name="Prepare FaceCDM Data Set",
            category="FaceCDM/training",
            **aliases("dataset", "training images"),
            description="Finds the faces in pictures, encodes pictures and captions once, and keeps the result on disk "
            "for Train FaceCDM Stage. A second run makes only what is new or changed.",
            is_output_node=True,
            inputs=[
                io.Model.Input("model", tooltip="The base model to be trained; sets the scale of the latents."),
                io.Clip.Input("clip", tooltip="The base model's text encoder."),
                io.Vae.Input("vae", tooltip="The base model's VAE."),
                FACE_ANALYZER.Input(
                    "analyzer", tooltip="From Load Face Analyzer; with landmarks, expressions are compared better."
                ),
                io.String.Input(
                    "name",
                    default="my data set",
                    tooltip="Folder below output/facecdm_data_sets; an existing data set of that name is updated.",
                ),
                io.Combo.Input(
                    "folder",
                    options=[IMAGES, *picture_folders(input_folder())],
                    tooltip="Folder in ComfyUI's input folder: captions in .txt files or meta.jsonl, a sub-folder per "
                    "person.",
                ),
                integer(
                    "resolution",
                    0,
                    0,
                    4096,
                    "Side of a square with the largest area that a bucket may have; 0: the model's own resolution.",
                    step=8,
                ),
                number(
                    "aspect",
                    defaults.aspect,
                    1.0,
                    4.0,
                    0.05,
                    "Largest ratio of a bucket's longer to its shorter side; 1: one square bucket.",
                ),
                choice(
                    "framing", FRAMINGS, defaults.framing, "Train on whole pictures, or on portraits around the faces."
                ),
                choice(
                    "several_faces",
                    SEVERAL,
                    defaults.several,
                    "A picture with several faces: use the largest, or drop the picture.",
                ),
                choice(
                    "no_caption",
                    NO_CAPTION,
                    defaults.no_caption,
                    "A picture without a caption: use the empty one, or drop the picture.",
                ),
                choice(
                    "identities",
                    IDENTITIES,
                    defaults.identities,
                    "How people are identified: by sub-folders and meta.jsonl, else by clustering the faces.",
                ),
                number(
                    "same_person",
                    defaults.same_person,
                    0.05,
                    0.95,
                    0.01,
                    "Lowest mean cosine at which clustered faces count as one person.",
                ),
                choice(
                    "pose",
                    POSES,
                    defaults.pose,
                    "Pictures for a pose ControlNet, drawn from the key points during training.",
                ),
                integer(
                    "augmented",
                    defaults.augmented,
                    0,
                    64,
                    "Number of variations of a photo; they are the references of people with only one photo.",
                ),
                number("min_score", defaults.min_score, 0.05, 1.0, 0.05, "Smallest score of the face detector."),
                number(
                    "min_face",
                    defaults.min_face,
                    0.0,
                    1.0,
                    0.01,
                    "Smallest ratio of the face's width to the shorter side of the bucket.",
                ),
                optional(io.ClipVision, "clip_vision", "Encoder of whole images, for adapters with an image stream."),
                optional(io.Image, "images", "A batch of pictures, in place of a folder."),
                io.String.Input(
                    "captions",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="For images: one line per picture, or one line for all.",
                ),
            ],
            outputs=[
                DATA_SET.Output(display_name="data set", tooltip="For Train FaceCDM Stage."),
                io.String.Output(display_name="report", tooltip="Which pictures were kept, which dropped and why."),
                io.Image.Output(display_name="contact sheet", tooltip="Kept and dropped pictures."),
            ],
        )

    @classmethod
    def validate_inputs(cls, folder=None):
        return validity("folder", folder, lambda name: name == IMAGES or inside(input_folder(), name))

    @classmethod
    def fingerprint_inputs(cls, folder=None, **_):
        """A text that changes with the folder's files, so that ComfyUI runs the node again."""
        try:
            root = None if folder in (None, IMAGES) else inside(input_folder(), folder)
        except FaceCDMError:
            return "missing"
        files = sorted(root.rglob("*")) if root else []
        stats = [(path.relative_to(root).as_posix(), path.stat().st_mtime_ns, path.stat().st_size) for path in files]
        return hashlib.sha256(repr(stats).encode()).hexdigest()

    @classmethod
    @checked
    def execute(
        cls,
        model,
        clip,
        vae,
        analyzer,
        name,
        folder,
        resolution,
        aspect,
        framing,
        several_faces,
        no_caption,
        identities,
        same_person,
        pose,
        augmented,
        min_score,
        min_face,
        clip_vision=None,
        images=None,
        captions="",
    ):
        from ..facecdm.hosts.comfy.training.encoders import ComfyEncoders
        from ..facecdm.training.dataset.faces import AnalyzerFinder
        from ..facecdm.training.dataset.pipeline import prepare

        target = data_sets_folder() / check_filename(name)
        encoders = ComfyEncoders(model, clip, vae, clip_vision)
        settings = Settings(
            resolution or encoders.resolution,
            encoders.step,
            aspect,
            framing,
            several_faces,
            min_score,
            min_face,
            no_caption=no_caption,
            identities=identities,
            same_person=same_person,
            pose=pose,
            augmented=augmented,
        )
        finder = AnalyzerFinder(analyzer, settings)
        data = prepare(_source(folder, images, captions), target, encoders, finder, settings, _Bars())
        sheet = _sheet(target / "contact.jpg")
        report = f"{(target / 'report.md').read_text(encoding='utf-8')}\n{target}"
        warnings = _ignored(folder, images, captions)
        return output(data, report, sheet, warnings=warnings, preview=ui.PreviewImage(sheet, cls=cls))


def _ignored(folder, images, captions) -> tuple[str, ...]:
    """A warning for inputs that a chosen folder replaces."""
    given = (("images", images is not None), ("captions", bool(captions.strip())))
    names = [name for name, there in given if there and folder != IMAGES]
    if not names:
        return ()
    return (
        f"{' and '.join(names)} have no effect: the pictures are those of the folder {folder}. Choose {IMAGES} as "
        "folder to use them.",
    )


def _source(folder, images, captions):
    from ..facecdm.training.dataset.sources import BatchSource, FolderSource

    if folder != IMAGES:
        return FolderSource(inside(input_folder(), folder))
    if images is None:
        raise FaceCDMError("there are no pictures: choose a folder of ComfyUI's input folder, or connect images")
    return BatchSource(images, [line for line in re.split(r"\r?\n", captions.strip()) if line.strip()])


class _Bars:
    """ComfyUI's progress bar, one for each stage. Raises if the user interrupts."""

    def __init__(self) -> None:
        self._stage, self._bar = "", None

    def __call__(self, stage: str, done: int, total: int) -> None:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from comfy.utils import ProgressBar

        throw_exception_if_processing_interrupted()
        if stage != self._stage:
            self._stage, self._bar = stage, ProgressBar(max(total, 1))
        self._bar.update_absolute(done, max(total, 1))


def _sheet(path: Path):
    import numpy as np
    import torch

    return torch.from_numpy(np.array(open_picture(path).convert("RGB"))).float()[None] / 255


NODES = [PrepareDataSet]
