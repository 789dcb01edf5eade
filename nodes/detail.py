"""Detail Faces: small faces sampled anew at a size that the model can draw."""

import torch
from comfy_api.latest import io, ui

from ..facecdm.errors import FaceCDMError
from ..facecdm.faces.align import ellipse_mask
from ..facecdm.faces.detect import Options, detect_faces
from ..facecdm.faces.value import Face
from ..facecdm.faces.window import Window, resize, window_around
from .sockets import FACE_ANALYZER, FACES


def _samplers() -> tuple[list[str], list[str]]:
    import comfy.samplers

    return list(comfy.samplers.KSampler.SAMPLERS), list(comfy.samplers.KSampler.SCHEDULERS)


class DetailFaces(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        samplers, schedulers = _samplers()
        return io.Schema(
            node_id="FaceCDMDetailFaces",
            display_name="Detail Faces",
            category="FaceCDM/people",
            description="Cuts every face out of a picture, samples it anew at a larger size with the same model and "
            "person, and blends it back. A picture without a face stays as it is.",
            inputs=[
                io.Image.Input("image", tooltip="One picture or a batch."),
                io.Model.Input(
                    "model", tooltip="With the person in it, after Apply FaceCDM; masks of several people are followed."
                ),
                io.Conditioning.Input("positive", tooltip="The words, best those that describe the face."),
                io.Conditioning.Input("negative", tooltip="What should not be seen."),
                io.Vae.Input("vae", tooltip="The model's VAE."),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="Of the noise; each further face counts one up.",
                ),
                io.Int.Input("steps", default=20, min=1, max=1000, tooltip="Steps of the sampler."),
                io.Float.Input(
                    "cfg", default=6.0, min=0.0, max=100.0, step=0.1, tooltip="How strictly the words are followed."
                ),
                io.Combo.Input("sampler_name", options=samplers, default="euler", tooltip="As in KSampler."),
                io.Combo.Input("scheduler", options=schedulers, default="normal", tooltip="As in KSampler."),
                io.Float.Input(
                    "denoise",
                    default=0.45,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the face is made anew: 0.3 sharpens, 0.6 changes who it is.",
                ),
                io.Int.Input(
                    "guide_size",
                    default=512,
                    min=64,
                    max=2048,
                    step=8,
                    tooltip="The cut-out's longer side while it is sampled; larger ones keep their size.",
                ),
                io.Float.Input(
                    "padding",
                    default=0.5,
                    min=0.0,
                    max=4.0,
                    step=0.05,
                    tooltip="What the model sees around a face, in faces on each side.",
                ),
                io.Float.Input(
                    "mask_grow",
                    default=1.25,
                    min=0.2,
                    max=4.0,
                    step=0.05,
                    tooltip="What is replaced: 1 reaches from forehead to chin.",
                ),
                io.Float.Input(
                    "feather",
                    default=0.3,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    tooltip="Width of the soft edge, as part of half a face.",
                ),
                io.Boolean.Input(
                    "noise_mask",
                    default=True,
                    tooltip="Sample the face alone and keep its surroundings while sampling.",
                ),
                io.Float.Input(
                    "min_score",
                    default=0.5,
                    min=0.05,
                    max=1.0,
                    step=0.05,
                    tooltip="How sure the detector must be; of connected faces all count.",
                ),
                io.Int.Input(
                    "min_size",
                    default=8,
                    min=0,
                    max=4096,
                    tooltip="Faces narrower than so many pixels are left as they are.",
                ),
                io.Int.Input(
                    "max_size",
                    default=4096,
                    min=1,
                    max=16384,
                    tooltip="Faces wider than so many pixels are left as they are.",
                ),
                FACE_ANALYZER.Input("analyzer", optional=True, tooltip="Finds the faces; or connect faces."),
                FACES.Input(
                    "faces",
                    optional=True,
                    tooltip="Only these faces, found in this very image by Detect & Embed Faces.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="image", tooltip="The pictures with their new faces."),
                io.Mask.Output(display_name="mask", tooltip="What was replaced, one mask a picture."),
                io.Image.Output(
                    display_name="before and after",
                    tooltip="Each face as it was and as it is; one black picture if there is none.",
                ),
                io.String.Output(display_name="report", tooltip="Which faces, at what size, and what was skipped."),
            ],
        )

    @classmethod
    def validate_inputs(cls, sampler_name=None, scheduler=None):
        for name, value, known in zip(("sampler_name", "scheduler"), (sampler_name, scheduler), _samplers()):
            if value is not None and value not in known:
                return f"{name} must be one of {', '.join(known)}; got {value!r}"
        return True

    @classmethod
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
        from nodes import common_ksampler  # core's, of the running ComfyUI

        from ..facecdm.hosts.comfy.sampling.window import conditioning_in, model_in

        found, lines = _faces(image, analyzer, faces, min_score)
        height, width = image.shape[1:3]
        result, masks, pairs = image.clone(), torch.zeros(image.shape[:3]), []
        for number, face in enumerate(found):
            if not min_size <= face.width <= max_size:
                lines.append(
                    f"Picture {face.image_index}: face of {face.width:.0f} px left, outside of min_size … max_size"
                )
                continue
            window = window_around(face.box, height, width, padding, guide_size)
            mask = torch.from_numpy(ellipse_mask(face.keypoints.numpy(), height, width, mask_grow, feather))
            # Beyond the window nothing is sampled, so nothing is replaced there.
            inside = torch.zeros_like(mask)
            inside[window.y0 : window.y1, window.x0 : window.x1] = 1
            mask, before = mask * inside, window.enlarged(result[face.image_index])
            latent = {"samples": vae.encode(before[..., :3])}
            if noise_mask:
                latent["noise_mask"] = resize(window.cut(mask)[None, None], window.size)[0]
            prompts = (conditioning_in(words, window, face.image_index) for words in (positive, negative))
            own = model_in(model, window, face.image_index, face.keypoints)
            sampled = common_ksampler(
                own, (seed + number) % 2**64, steps, cfg, sampler_name, scheduler, *prompts, latent, denoise
            )[0]["samples"]
            detail = vae.decode(sampled)
            result[face.image_index] = window.put_back(result[face.image_index], detail[0].to(result), mask)
            masks[face.image_index] = torch.maximum(masks[face.image_index], mask)
            pairs.append(_pair(before, window.enlarged(result[face.image_index]), guide_size))
            lines.append(
                f"Picture {face.image_index}: face of {face.width:.0f} px sampled at {_scale(window):.1f} "
                f"times its size, {window.size[1]} × {window.size[0]}"
            )
        shown = torch.cat(pairs) if pairs else torch.zeros(1, 64, 128, 3)
        return io.NodeOutput(result, masks, shown, "\n".join(lines), ui=ui.PreviewImage(shown[:16], cls=cls))


def _faces(image, analyzer, faces, min_score: float) -> tuple[list[Face], list[str]]:
    """The faces to work on, and a line for every picture that has none."""
    if faces is None and analyzer is None:
        raise FaceCDMError(
            "connect an analyzer (Load Face Analyzer) to find the faces, or faces that were found in this image"
        )
    if faces is None:
        faces = detect_faces(analyzer, image, Options(choice="all", min_score=min_score, crop_size=112)).faces
    for face in faces:
        if face.image_index >= len(image) or tuple(face.image_size) != tuple(image.shape[1:3]):
            raise FaceCDMError(
                "faces were found in another picture than image: connect both to the same one, or "
                "leave faces out and connect an analyzer"
            )
    lacking = sorted(set(range(len(image))) - {face.image_index for face in faces})
    return list(faces), [f"Picture {index}: no face, left as it is" for index in lacking]


def _scale(window: Window) -> float:
    return window.size[1] / (window.x1 - window.x0)


def _pair(before, after, side: int):
    """[1, side, 2·side, 3]: a face before and after, side by side."""
    both = [
        resize(picture[..., :3].movedim(-1, 1).float().cpu(), (side, side)).movedim(1, -1)
        for picture in (before, after)
    ]
    return torch.cat(both, 2).clamp(0, 1)


NODES = [DetailFaces]
