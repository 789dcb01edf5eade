"""Detail Faces: sample small faces again at a size that suits the model."""

from dataclasses import dataclass

import torch
from comfy_api.latest import io, ui

from ..facecdm.errors import FaceCDMError
from ..facecdm.faces.align import ellipse_mask
from ..facecdm.faces.detect import Options, detect_faces
from ..facecdm.faces.source_picture import contains_face
from ..facecdm.faces.value import Face
from ..facecdm.faces.window import STEP, Window, resize, window_around
from ..facecdm.pictures import rgb
from .checks import checked
from .inputs import integer, number, optional, switch
from .new_fields import ADVANCED, aliases
from .sockets import FACE_ANALYZER, FACES
from .warn import output

SHOWN = 16  # pairs in the preview under the node; the output has all of them


def _samplers() -> tuple[tuple[str, ...], tuple[str, ...]]:
    import comfy.samplers

    return tuple(comfy.samplers.KSampler.SAMPLERS), tuple(comfy.samplers.KSampler.SCHEDULERS)


class DetailFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        samplers, schedulers = _samplers()
        return io.Schema(
            node_id="FaceCDMDetailFaces",
            display_name="Detail Faces",
            category="FaceCDM/people",
            **aliases("face detailer", "adetailer", "face swap", "fix faces"),
            description="Cuts every face out of a picture, samples it again at a larger size with the same model and "
            "person, and blends it back. A picture without a face stays as it is.",
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                io.Model.Input("model", tooltip="From Apply FaceCDM. Masks of several people are cut to the face."),
                io.Conditioning.Input("positive", tooltip="The prompt, best one that describes the face."),
                io.Conditioning.Input("negative", tooltip="The negative prompt."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                integer(
                    "seed",
                    0,
                    0,
                    0xFFFFFFFFFFFFFFFF,
                    "Seed of the noise; each further face adds one.",
                    control_after_generate=True,
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Steps of the sampler."),
                io.Float.Input("cfg", default=6.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale."),
                io.Combo.Input("sampler_name", options=list(samplers), default="euler", tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=list(schedulers), default="normal", tooltip="As in KSampler."),
                number(
                    "denoise",
                    0.45,
                    0.01,
                    1.0,
                    0.01,
                    "Share of the noise levels that are sampled: 0.3 sharpens, 0.6 changes the identity.",
                ),
                integer(
                    "guide_size",
                    512,
                    64,
                    2048,
                    "Longer side of the cut-out while it is sampled. Larger cut-outs keep their size.",
                    step=8,
                ),
                number("padding", 0.5, 0.0, 4.0, 0.05, "Surroundings in the cut-out, in faces on each side."),
                number(
                    "mask_grow",
                    1.25,
                    0.2,
                    4.0,
                    0.05,
                    "Size of the replaced area; 1 reaches from forehead to chin.",
                    **ADVANCED,
                ),
                number(
                    "feather", 0.3, 0.0, 2.0, 0.05, "Width of the replaced area's soft edge, in half faces.", **ADVANCED
                ),
                switch("noise_mask", True, "Keep the surroundings of the face while sampling.", **ADVANCED),
                number(
                    "min_score",
                    0.5,
                    0.05,
                    1.0,
                    0.05,
                    "Lowest score of the detector that counts as a face. Connected faces all count.",
                    **ADVANCED,
                ),
                integer("min_size", 8, 0, 4096, "Faces narrower than this many pixels stay as they are.", **ADVANCED),
                integer("max_size", 4096, 1, 16384, "Faces wider than this many pixels stay as they are.", **ADVANCED),
                optional(FACE_ANALYZER, "analyzer", "Finds the faces; or connect faces instead."),
                optional(FACES, "faces", "Only these faces, found in the same image by Detect & Embed Faces."),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures with the new faces."),
                io.Mask.Output(display_name="mask", tooltip="The replaced area, one mask for each picture."),
                io.Image.Output(
                    display_name="before and after",
                    tooltip="Each face before and after; one black picture if there is none.",
                ),
                io.String.Output(
                    display_name="report", tooltip="Which faces were sampled at what size, and what was skipped."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        image,
        model,
        positive,
        negative,
        vae,
        seed,
        steps,
        cfg,
        sampler_name,
        scheduler,
        denoise,
        guide_size,
        padding,
        mask_grow,
        feather,
        noise_mask,
        min_score,
        min_size,
        max_size,
        analyzer=None,
        faces=None,
    ):
        found, lines = _faces(image, analyzer, faces, min_score)
        warnings = list(lines)
        sampler = FaceSampler(
            model, positive, negative, vae, seed, steps, cfg, sampler_name, scheduler, denoise, noise_mask
        )
        height, width = image.shape[1:3]
        step = getattr(vae, "multiple", STEP)  # the demo's VAE crops pictures to it
        result, masks, pairs = image.clone(), torch.zeros(image.shape[:3]), []
        for order, face in enumerate(found):
            index = face.image_index
            if not min_size <= face.width <= max_size:
                lines.append(f"Picture {index}: face of {face.width:.0f} px skipped, not within min_size … max_size")
                continue
            window = window_around(face.box, height, width, padding, guide_size, step)
            mask = _mask(face, window, mask_grow, feather)
            before = window.enlarged(result[index])
            detail = sampler(before, mask, window, face, order)
            result[index] = window.put_back(result[index], detail.to(result), mask)
            masks[index] = torch.maximum(masks[index], mask)
            pairs.append(_pair(before, window.enlarged(result[index]), guide_size))
            lines.append(
                f"Picture {index}: face of {face.width:.0f} px sampled at {_scale(window):.1f} "
                f"times its size, {window.size[1]} × {window.size[0]}"
            )
        shown = torch.cat(pairs) if pairs else torch.zeros(1, 64, 128, 3)
        preview = ui.PreviewImage(shown[:SHOWN], cls=cls)
        return output(result, masks, shown, "\n".join(lines), warnings=warnings, preview=preview)


@dataclass(frozen=True)
class FaceSampler:
    """Samples one cut-out; the fields are the inputs of the node."""

    model: object
    positive: list
    negative: list
    vae: object
    seed: int
    steps: int
    cfg: float
    sampler_name: str
    scheduler: str
    denoise: float
    noise_mask: bool

    def __call__(self, before: torch.Tensor, mask: torch.Tensor, window: Window, face: Face, number: int):
        """Sample the cut-out `before` [1, h, w, C] again: IMAGE [h, w, 3]. `mask` [H, W] covers the whole picture."""
        from nodes import common_ksampler  # ComfyUI's own nodes.py

        from ..facecdm.hosts.comfy.sampling.window import conditioning_in, model_in

        latent = {"samples": self.vae.encode(rgb(before))}
        if self.noise_mask:
            latent["noise_mask"] = resize(window.cut(mask)[None, None], window.size)[0]
        sampled = common_ksampler(
            model_in(self.model, window, face.image_index, face.keypoints),
            (self.seed + number) % 2**64,
            self.steps,
            self.cfg,
            self.sampler_name,
            self.scheduler,
            *(conditioning_in(prompt, window, face.image_index) for prompt in (self.positive, self.negative)),
            latent,
            self.denoise,
        )[0]["samples"]
        return self.vae.decode(sampled).flatten(0, -4)[0]  # some VAEs give frames


def _faces(image, analyzer, faces, min_score: float) -> tuple[list[Face], list[str]]:
    """Return (the faces to sample, a line for every picture that stays as it is or whose faces look different).

    Raises FaceCDMError.
    """
    finite = [bool(torch.isfinite(picture).all()) for picture in image]
    if finite and not any(finite):
        raise FaceCDMError("image holds NaN or infinity: check the node that it comes from.")
    if faces is None and analyzer is None:
        raise FaceCDMError(
            "connect an analyzer (Load Face Analyzer) to find the faces, or faces that were found in this image"
        )
    lines = [f"Picture {index}: skipped, it holds NaN or infinity" for index, good in enumerate(finite) if not good]
    if faces is None:
        from comfy.utils import ProgressBar

        bar = ProgressBar(len(image))  # which also stops the search at an interrupt
        options = Options(choice="all", min_score=min_score, crop_size=112)
        faces = detect_faces(analyzer, image, options, lambda done, total: bar.update_absolute(done, total)).faces
    else:
        lines += _unlike_picture(image, faces, finite)
    lacking = sorted({index for index, good in enumerate(finite) if good} - {face.image_index for face in faces})
    lines += [f"Picture {index}: no face, left as it is" for index in lacking]
    return [face for face in faces if finite[face.image_index]], lines


def _unlike_picture(image, faces, finite: list[bool]) -> list[str]:
    """A line for every face that `image` does not show at its place. Raises FaceCDMError for pictures of other sizes
    or numbers."""
    lines = []
    for face in faces:
        index = face.image_index
        if not 0 <= index < len(image) or tuple(face.image_size) != tuple(image.shape[1:3]):
            raise FaceCDMError(
                "faces were found in another picture than image: connect both to the same one, or "
                "leave faces out and connect an analyzer"
            )
        if finite[index] and not contains_face(image[index], face):
            left, top = (round(float(side)) for side in face.box[:2])
            lines.append(
                f"Picture {index}: image does not show the face of faces at {left}, {top}, so something else may be "
                "repainted there. Connect both to the same picture."
            )
    return lines


def _mask(face: Face, window: Window, grow: float, feather: float) -> torch.Tensor:
    """Mask [H, W] of the replaced pixels; 0 outside the window, where nothing is sampled."""
    mask = torch.from_numpy(ellipse_mask(face.keypoints.numpy(), window.height, window.width, grow, feather))
    inside = torch.zeros_like(mask)
    inside[window.y0 : window.y1, window.x0 : window.x1] = 1
    return mask * inside


def _scale(window: Window) -> float:
    return window.size[1] / (window.x1 - window.x0)


def _pair(before, after, side: int):
    """Show a face before and after, side by side: [1, side, 2·side, 3]."""
    both = [
        resize(rgb(picture).movedim(-1, 1).float().cpu(), (side, side)).movedim(1, -1) for picture in (before, after)
    ]
    return torch.cat(both, 2).clamp(0, 1)


NODES: list[type[io.ComfyNode]] = [DetailFaces]
