"""Evaluate Identity: identity similarity of generated pictures to their reference."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io, ui

from ..facecdm.errors import BadFile, FaceCDMError
from ..facecdm.faces.detect import to_bgr
from ..facecdm.files import check_filename
from ..facecdm.pictures import open_picture
from .checks import checked, validity
from .inputs import optional, switch
from .new_fields import aliases
from .sockets import FACE_ANALYZER
from .warn import output

HOME = "facecdm_evaluation"  # below ComfyUI's output folder
WITH, WITHOUT = "with identity", "without identity"


class EvaluateIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMEvaluateIdentity",
            display_name="Evaluate Identity",
            category="FaceCDM/faces",
            **aliases("identity similarity", "face similarity", "benchmark"),
            description="Measures generated pictures against photos of the person: identity similarity to the "
            "reference and to a held-out photo, copy-paste, sharpness, head rotation, adherence to the prompt. "
            "Writes an HTML report.",
            is_output_node=True,
            inputs=[
                io.Image.Input("images", tooltip="The generated pictures."),
                io.Image.Input(
                    "reference",
                    tooltip="The reference: one photo, or one for each picture. Equal photos count as one person.",
                ),
                FACE_ANALYZER.Input(
                    "analyzer",
                    tooltip="The recogniser that measures. Preferably not the pack that made the embeddings.",
                ),
                optional(io.Image, "held_out", "A photo of the person that was not used, or one for each picture."),
                optional(
                    io.Image, "without_identity", "The pictures of the same seeds without the adapter, for comparison."
                ),
                optional(
                    io.Image, "others", "Other people in the same kind of picture. Their mean embedding is subtracted."
                ),
                switch(
                    "second_opinion", False, "Also measure with dlib, which no training used. It must be installed."
                ),
                io.String.Input(
                    "name", default="evaluation", tooltip="Folder of the report, below output/facecdm_evaluation."
                ),
                optional(io.Clip, "clip", "With clip_vision: measures similarity to the prompt and attributes."),
                optional(io.ClipVision, "clip_vision", "The vision tower that was trained together with clip."),
                _text("prompts", "One prompt for all pictures, or a line for each; needs clip and clip_vision."),
                _text(
                    "attributes",
                    "What the prompt asks for / what the reference shows, for all pictures or in a line for each: "
                    "expression: laughing / neutral; hair: long red / short black. Needs clip and clip_vision.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table", tooltip="Means with 95 % intervals, in Markdown."),
                io.Image.Output(display_name="plot", tooltip="Histogram of the identity similarity."),
                io.Float.Output(
                    display_name="similarity",
                    tooltip="Mean identity similarity to the held-out photo, or to the reference if there is none.",
                ),
                io.Float.Output(display_name="faces_found", tooltip="Share of the pictures in which a face was found."),
                io.String.Output(display_name="report", tooltip="Path of the HTML report."),
            ],
        )

    @classmethod
    def validate_inputs(cls, name=None):
        return validity("name", name, check_filename)

    @classmethod
    @checked
    def execute(
        cls,
        images,
        reference,
        analyzer,
        second_opinion,
        name,
        held_out=None,
        without_identity=None,
        others=None,
        clip=None,
        clip_vision=None,
        prompts="",
        attributes="",
    ):
        from comfy.utils import ProgressBar

        from ..facecdm.evaluation import report
        from ..facecdm.evaluation.evaluate import Evaluator
        from ..facecdm.evaluation.recognisers import Dlib, InsightFace

        if not len(images):
            raise FaceCDMError("images is an empty batch: there is nothing to evaluate.")
        report.check_plots()
        texts = PictureTexts.read(len(images), prompts, attributes)
        score, judge = texts.measures(clip, clip_vision)
        album = GraphPictures(images, reference=reference, held_out=held_out, without_identity=without_identity)
        strangers = album.add("others", others) if others is not None else None
        first = InsightFace.of(analyzer)
        recognisers = [first, *([Dlib(first.recognise)] if second_opinion else [])]
        bar = ProgressBar(len(images))
        result = Evaluator(recognisers, album.open, score, strangers, judge).run(
            album.samples(texts), lambda done, total: bar.update_absolute(done, total)
        )
        values = next((one.values for one in result.summaries if one.condition == WITH), None)
        if values is None:
            raise FaceCDMError("No picture of images could be measured. " + "; ".join(result.notes))
        folder = _folder(name)
        written = report.write(result, folder)
        plot = _picture(folder / "likeness.png")
        similarity = values.get("similarity to held out", values.get("similarity to reference"))[0]
        return output(
            report.markdown(result),
            plot,
            similarity,
            values["face found"][0],
            str(written["report.html"]),
            warnings=[*texts.without_effect(clip, clip_vision), *result.notes],
            preview=ui.PreviewImage(plot, cls=cls),
        )


@dataclass(frozen=True)
class PictureTexts:
    """The prompt and the attributes of each picture; "" for none."""

    prompts: list[str]
    attributes: list[str]

    @classmethod
    def read(cls, count: int, prompts: str, attributes: str) -> "PictureTexts":
        """Raises FaceCDMError for another number of lines than 1 or `count`, and for unreadable attributes."""
        from ..facecdm.evaluation.attributes import parse

        texts = cls(_lines("prompts", prompts, count), _lines("attributes", attributes, count))
        for text in texts.attributes:
            try:
                parse(text)
            except ValueError as error:
                raise FaceCDMError(str(error)) from error
        return texts

    def measures(self, clip, clip_vision) -> tuple:
        """(similarity to the prompt, judge of the attributes), None where something for it is missing."""
        from ..facecdm.evaluation.attributes import values_of
        from ..facecdm.evaluation.clip_score import clip_measures
        from ..facecdm.hosts.comfy.clip_towers import ComfyTowers

        if clip is None or clip_vision is None or not any(self.prompts + self.attributes):
            return None, None
        return clip_measures(ComfyTowers(clip, clip_vision), values_of(self.attributes))

    def without_effect(self, clip, clip_vision) -> list[str]:
        """Warnings for inputs without effect."""
        given = [name for name in ("prompts", "attributes") if any(getattr(self, name))]
        towers = [name for name, tower in (("clip", clip), ("clip_vision", clip_vision)) if tower is not None]
        if given and len(towers) < 2:
            return [f"{' and '.join(given)}: no effect without clip and clip_vision"]
        if towers and not given:
            return [f"{' and '.join(towers)}: no effect without prompts or attributes"]
        return []


class GraphPictures:
    """The pictures of a graph, keyed by path because the evaluator opens paths. Raises FaceCDMError."""

    def __init__(self, images: torch.Tensor, **sets: torch.Tensor | None):
        self._pictures: dict[Path, np.ndarray] = {}
        self._count = len(images)
        self._names = {"images": self.add("images", images)}
        for name, pictures in sets.items():
            if pictures is None:
                continue
            if len(pictures) not in (1, self._count):
                raise FaceCDMError(
                    f"{name} has {len(pictures)} pictures and images has {self._count}: give one, or "
                    "one for each picture"
                )
            self._names[name] = self.add(name, pictures) * (self._count if len(pictures) == 1 else 1)

    def add(self, name: str, pictures: torch.Tensor) -> list[Path]:
        keys = [Path(f"{name} {number + 1}") for number in range(len(pictures))]
        for key, picture in zip(keys, pictures):
            bgr = to_bgr(picture)
            if bgr is not None:
                self._pictures[key] = np.ascontiguousarray(bgr[..., ::-1])
        return keys

    def open(self, key: Path) -> np.ndarray:
        """RGB uint8 [H, W, 3]. Raises BadFile for a picture that cannot be used."""
        if key not in self._pictures:
            raise BadFile(f"{key} holds NaN or infinity, or no pixels: check the node that it comes from")
        return self._pictures[key]

    def samples(self, texts: PictureTexts) -> list:
        """Make the samples. Pictures without identity come first, since the others are compared with them."""
        from ..facecdm.evaluation.samples import Sample

        references, held_out, plain = (self._names.get(name) for name in ("reference", "held_out", "without_identity"))
        people = self._people(references)

        def sample(picture: Path, number: int, condition: str, without: Path | None) -> Sample:
            return Sample(
                picture,
                people[number],
                condition,
                references[number],
                held_out[number] if held_out else None,
                texts.prompts[number],
                plain=without,
                attributes=texts.attributes[number],
            )

        first = [sample(picture, number, WITHOUT, None) for number, picture in enumerate(plain or [])]
        return first + [
            sample(picture, number, WITH, plain[number] if plain else None)
            for number, picture in enumerate(self._names["images"])
        ]

    def _people(self, references: list[Path]) -> list[str]:
        """Name the person of each reference; equal photos show one person."""
        names: dict[bytes, str] = {}
        photos = ((b"" if (photo := self._pictures.get(key)) is None else photo.tobytes()) for key in references)
        return [names.setdefault(photo, f"person {len(names) + 1}") for photo in photos]


def _text(name: str, tooltip: str) -> io.Input:
    return io.String.Input(name, default="", multiline=True, optional=True, tooltip=tooltip)


def _lines(name: str, text: str, count: int) -> list[str]:
    """The text's lines, one for each picture; a single line is for all. Raises FaceCDMError.

    Empty lines at the end do not count. One at the beginning is the text of the first picture.
    """
    lines = [line.strip() for line in text.rstrip().splitlines()] or [""]
    if len(lines) not in (1, count):
        raise FaceCDMError(
            f"{name} has {len(lines)} lines and images has {count} pictures: write one line, or one for each picture"
        )
    return lines * (count if len(lines) == 1 else 1)


def _folder(name: str) -> Path:
    """Choose a folder that does not exist yet."""
    import folder_paths

    home = Path(folder_paths.get_output_directory()) / HOME
    name, number = check_filename(name), 1
    while (home / (name if number == 1 else f"{name}_{number}")).exists():
        number += 1
    return home / (name if number == 1 else f"{name}_{number}")


def _picture(path: Path) -> torch.Tensor:
    with open_picture(path) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB"))).float()[None] / 255


NODES = [EvaluateIdentity]
