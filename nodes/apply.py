"""Apply FaceCDM: a MODEL that shows a person."""

import torch
from comfy_api.latest import io
from torch import Tensor
from torch.nn import functional as F

from ..facecdm.adapter.curves import CURVES, CUSTOM, layer_factors, parse_curve
from ..facecdm.adapter.model import TripletAdapter
from ..facecdm.adapter.person import Person, Stream
from ..facecdm.errors import FaceCDMError, Mismatch
from ..facecdm.faces.value import same_recogniser
from .sockets import ADAPTER, FACES

REFERENCES = ("mean", "side by side")


class ApplyFaceCDM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMApply",
            display_name="Apply FaceCDM",
            category="FaceCDM",
            description="Patches a person into the model's cross-attention: face identity and, if connected, the "
                        "whole image, beside the text. For several people chain one of these for each, with masks.",
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; what is patched in already stays."),
                ADAPTER.Input("adapter", tooltip="A triplet adapter made for this base model."),
                FACES.Input("faces", tooltip="One or several photos' faces of one person."),
                io.Float.Input("face_strength", default=1.0, min=-2.0, max=4.0, step=0.05,
                               tooltip="How strongly the face is heard; 0 leaves its stream out."),
                io.Float.Input("image_strength", default=1.0, min=-2.0, max=4.0, step=0.05,
                               tooltip="How strongly the whole image is heard; 0 leaves its stream out."),
                io.Float.Input("keep_prompt", default=0.0, min=0.0, max=1.0, step=0.05,
                               tooltip="Takes out of the streams what the text already says, so that the prompt wins."),
                io.Float.Input("start_at", default=0.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which the person begins to act."),
                io.Float.Input("end_at", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which the person no longer acts."),
                io.Combo.Input("references", options=list(REFERENCES), default="mean",
                               tooltip="Several faces as one mean face, or all of them side by side."),
                io.Combo.Input("curve", options=[*CURVES, CUSTOM], default="flat",
                               tooltip="Strength over the U-Net's depth, from the first input block to the last "
                                       "output block."),
                io.String.Input("custom_curve", default="1, 1, 1", optional=True,
                                tooltip="For the curve 'custom': numbers at even distances, joined by lines."),
                io.ClipVision.Input("clip_vision", optional=True,
                                    tooltip="The encoder for the whole image; the one the adapter was made with."),
                io.Image.Input("image", optional=True, tooltip="The whole image, with clothes and surroundings."),
                io.ClipVisionOutput.Input("clip_vision_output", optional=True,
                                          tooltip="A whole image encoded already, in place of the two above."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where in the picture the person is; of a batch the first counts."),
            ],
            outputs=[io.Model.Output(tooltip="The same model, with the person in it.")],
        )

    @classmethod
    def validate_inputs(cls, references="mean", curve="flat", custom_curve="1"):
        if references not in REFERENCES:
            return f"references must be one of {', '.join(REFERENCES)}; got {references!r}"
        if curve not in (*CURVES, CUSTOM):
            return f"curve must be one of {', '.join((*CURVES, CUSTOM))}; got {curve!r}"
        try:
            return bool(parse_curve(custom_curve)) if curve == CUSTOM else True
        except FaceCDMError as error:
            return str(error)

    @classmethod
    def execute(cls, model, adapter, faces, face_strength, image_strength, keep_prompt, start_at, end_at, references,
                curve, custom_curve="1", clip_vision=None, image=None, clip_vision_output=None, mask=None):
        from ..facecdm.hosts.comfy import apply_person, sigma_at

        if start_at >= end_at:
            raise FaceCDMError(f"start_at ({start_at}) must be before end_at ({end_at})")
        points = parse_curve(custom_curve) if curve == CUSTOM else CURVES[curve]
        factors = layer_factors(points, adapter.config.layer_map)
        person = Person(
            adapter,
            face=_face(faces, adapter, references),
            image=_image(adapter, clip_vision, image, clip_vision_output),
            settings={"face": Stream(face_strength, factors, keep_prompt),
                      "image": Stream(image_strength, factors, keep_prompt)},
            mask=None if mask is None else mask.reshape(-1, *mask.shape[-2:])[0],
            sigma_start=sigma_at(model, start_at),
            sigma_end=sigma_at(model, end_at) if end_at < 1 else 0.0,
        )
        return io.NodeOutput(apply_person(model, person))


def _face(faces, adapter: TripletAdapter, references: str) -> Tensor:
    """Unit embeddings [1 or references, width]."""
    faces = faces.required("Apply FaceCDM's faces")
    config = adapter.config
    if config.recogniser and not same_recogniser(config.recogniser, faces.recogniser):
        raise Mismatch(f"the adapter was trained with the recogniser {config.recogniser}, and faces come from "
                       f"{faces.recogniser}: choose the first in Load Face Analyzer")
    if faces.dim != config.face_width:
        raise Mismatch(f"faces has {faces.dim} features a face (recogniser {faces.recogniser}), and the "
                       f"adapter reads {config.face_width}: use the recogniser that the adapter was trained with")
    return F.normalize(faces.normed.mean(0, keepdim=True), dim=1) if references == "mean" else faces.normed


def _image(adapter: TripletAdapter, clip_vision, image, output) -> Tensor | None:
    """Vision states [pictures, N, width], or None where no image is connected."""
    if output is None and image is None:
        return None
    if output is None and clip_vision is None:
        raise FaceCDMError("image is connected and clip_vision is not: connect the CLIP vision model that the adapter "
                           "was made with, or disconnect the image")
    if not adapter.config.image_width:
        raise Mismatch("this adapter has no image stream: disconnect image and clip_vision_output, or use an adapter "
                       "that was made with a CLIP vision model")
    encoded = output if output is not None else clip_vision.encode_image(image)
    states = encoded.penultimate_hidden_states
    if states.shape[-1] != adapter.config.image_width:
        raise Mismatch(f"the CLIP vision model gives {states.shape[-1]} features, and the adapter reads "
                       f"{adapter.config.image_width}: load the CLIP vision model that the adapter was made with")
    if not torch.isfinite(states).all():
        raise FaceCDMError("the encoded image holds NaN: load the CLIP vision model in another precision")
    return states.float().cpu()


NODES = [ApplyFaceCDM]
