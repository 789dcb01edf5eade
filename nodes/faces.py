"""Load Face Analyzer and Detect & Embed Faces."""

from functools import partial

from comfy_api.latest import io, ui

from ..facecdm.faces.analyzer import open_pack
from ..facecdm.faces.detect import CHOICES, NO_FACE, Options, detect_faces
from ..facecdm.faces.draw import draw_pictures
from ..facecdm.faces.packs import find_pack, find_packs
from ..facecdm.faces.providers import PROVIDERS
from .checks import checked, validity
from .inputs import choice, integer, number, switch
from .model_folders import FACE_PACKS, folders
from .new_fields import ADVANCED, aliases
from .sockets import FACE_ANALYZER, FACES
from .warn import output

NO_PACK = "none found"
SHOWN = 16  # pictures in the preview under the node; the output has all of them


class LoadFaceAnalyzer(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadFaceAnalyzer",
            display_name="Load Face Analyzer",
            category="FaceCDM/faces",
            **aliases("insightface", "buffalo", "antelopev2", "faceid"),
            description="Loads an InsightFace pack: a detector that finds faces and a recogniser that embeds them. "
            "The weights are for non-commercial research only.",
            inputs=[
                io.Combo.Input(
                    "pack",
                    options=list(find_packs(folders(FACE_PACKS))) or [NO_PACK],
                    tooltip="Folder of InsightFace models below models/insightface/models.",
                ),
                choice(
                    "provider",
                    PROVIDERS,
                    "auto",
                    "Where ONNX Runtime computes. The report names the provider that it got.",
                    **ADVANCED,
                ),
                switch("landmarks", False, "Also load the pack's model for 106 landmarks (2d106det).", **ADVANCED),
            ],
            outputs=[
                FACE_ANALYZER.Output(display_name="analyzer", tooltip="For Detect & Embed Faces."),
                io.String.Output(display_name="report", tooltip="Files, provider and warnings."),
            ],
        )

    @classmethod
    def validate_inputs(cls, pack: str | None = None) -> bool | str:
        return validity("pack", pack, partial(find_pack, folders(FACE_PACKS)))

    @classmethod
    @checked
    def execute(cls, pack: str, provider: str, landmarks: bool) -> io.NodeOutput:
        analyzer = open_pack(folders(FACE_PACKS), pack, provider, landmarks)
        return output(analyzer, analyzer.report(), warnings=analyzer.notices)


class DetectFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMDetectFaces",
            display_name="Detect & Embed Faces",
            category="FaceCDM/faces",
            **aliases("insightface", "face embedding", "faceid", "identity", "crop face"),
            description="Finds faces in a batch of pictures, also close-ups and faces on their side, and returns their "
            "identity embeddings, aligned crops, a mask and a preview.",
            inputs=[
                FACE_ANALYZER.Input("analyzer", tooltip="From Load Face Analyzer."),
                io.Image.Input("image", tooltip="One picture or a batch."),
                choice(
                    "choice",
                    CHOICES,
                    "largest",
                    "Which face of each picture: the largest, the one with the best score, the one at 'index' "
                    "counted from left to right or by size, or all.",
                ),
                integer(
                    "index",
                    0,
                    0,
                    999,
                    "Number of the face, from 0, for 'index' and 'left to right'. The preview shows the numbers.",
                ),
                number(
                    "min_score",
                    0.5,
                    0.05,
                    1.0,
                    0.05,
                    "Lowest score of the detector that counts as a face. Lower it for difficult pictures.",
                    **ADVANCED,
                ),
                choice(
                    "no_face",
                    NO_FACE,
                    "skip",
                    "For a picture without a face: skip it and report it, or stop with an error.",
                ),
                integer("crop_size", 224, 64, 1024, "Side of the aligned crops in pixels.", step=8, **ADVANCED),
                number(
                    "crop_margin",
                    0.0,
                    0.0,
                    2.0,
                    0.05,
                    "What the crops show beyond the face, in faces on each side.",
                    **ADVANCED,
                ),
                number(
                    "mask_grow", 1.0, 0.2, 4.0, 0.05, "Size of the mask: 1 reaches from forehead to chin.", **ADVANCED
                ),
                number(
                    "mask_feather", 0.15, 0.0, 2.0, 0.05, "Width of the mask's soft edge, in half faces.", **ADVANCED
                ),
                integer(
                    "detection_size",
                    640,
                    64,
                    2048,
                    "Size to which pictures are scaled for the detector. A larger one finds smaller faces.",
                    step=32,
                    **ADVANCED,
                ),
                switch(
                    "search_harder",
                    True,
                    "If no face is certain, search again at other sizes, with a border around the picture "
                    "(close-ups), and with the picture turned.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "name",
                    default="",
                    optional=True,
                    tooltip="Name of the person, for tables and saved files.",
                ),
                switch(
                    "unload_after",
                    False,
                    "Free the analyzer's memory afterwards. It is loaded again when needed.",
                    optional=True,
                    **ADVANCED,
                ),
            ],
            outputs=[
                FACES.Output(display_name="faces", tooltip="The chosen faces. May be empty with no_face = skip."),
                io.Image.Output(
                    display_name="crops", tooltip="Upright aligned faces; one black picture if there is none."
                ),
                io.Mask.Output(display_name="mask", tooltip="Soft mask of the chosen faces, one for each picture."),
                io.Image.Output(display_name="preview", tooltip="The pictures with boxes, key points and scores."),
                io.String.Output(
                    display_name="report", tooltip="What was found in each picture, and which were skipped."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        analyzer,
        image,
        choice,
        index,
        min_score,
        no_face,
        crop_size,
        crop_margin,
        mask_grow,
        mask_feather,
        detection_size,
        search_harder,
        name="",
        unload_after=False,
    ) -> io.NodeOutput:
        from comfy.utils import ProgressBar

        options = Options(
            choice=choice,
            index=index,
            min_score=min_score,
            no_face=no_face,
            crop_size=crop_size,
            crop_margin=crop_margin,
            mask_grow=mask_grow,
            mask_feather=mask_feather,
            detection_size=detection_size,
            thorough=search_harder,
        )
        bar = ProgressBar(max(len(image), 1))
        found = detect_faces(analyzer, image, options, lambda done, total: bar.update_absolute(done, total))
        if unload_after:
            analyzer.unload()
        preview = draw_pictures(image, found.pictures)
        return output(
            found.faces.named(name.strip()),
            found.crops,
            found.mask,
            preview,
            found.report,
            warnings=found.problems,
            preview=ui.PreviewImage(preview[:SHOWN], cls=cls),
        )


NODES: list[type[io.ComfyNode]] = [LoadFaceAnalyzer, DetectFaces]
