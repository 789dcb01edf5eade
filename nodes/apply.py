"""Apply FaceCDM: a MODEL that shows a person."""

from typing import NamedTuple

from comfy_api.latest import io

from ..facecdm.adapter.curves import CUSTOM, CUSTOM_INPUT, NAMES, factors_of
from ..facecdm.adapter.person import Person, Stream
from ..facecdm.adapter.references import PER_PICTURE, REFERENCES
from ..facecdm.errors import FaceCDMError
from ..facecdm.formats.pose_warnings import pose_warnings
from ..facecdm.formats.unlike_training import unlike_training
from ..facecdm.formats.unused_inputs import (
    blocks_without_stream,
    keep_prompt_without_effect,
    keep_prompt_without_projection,
    mask_black,
    mask_missing,
    options_without_effect,
    projection_without_effect,
    strengths_without_effect,
)
from .apply_options import NONE, OWN, SAME, ApplyOptions, ApplyOptionsNode
from .checks import check_pixels, checked
from .inputs import choice, fraction, optional, strength
from .new_fields import ADVANCED, aliases
from .sockets import ADAPTER, FACES, OPTIONS, POSE_KEYPOINT
from .warn import output

SEVERAL = (
    "How several references are used: as their mean, all side by side, or one per picture of the batch (for video; of "
    "several faces in a frame the largest)."
)


class ApplyFaceCDM(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMApply",
            display_name="Apply FaceCDM",
            category="FaceCDM",
            **aliases(
                "ipadapter",
                "ip-adapter",
                "faceid",
                "instantid",
                "pulid",
                "identity",
                "face swap",
                "consistent character",
                "reference face",
            ),
            description="Patches a person into the model's attention: face identity and, if connected, the "
            "whole image, beside the text. For several people chain one node per person, with masks.",
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; its existing patches stay."),
                ADAPTER.Input("adapter", tooltip="Made for this base model: FaceCDM's own or a published one."),
                optional(
                    FACES,
                    "faces",
                    "Faces of one person, from one or several photos; adapters that encode only images need none.",
                ),
                strength("face_strength", 1.0, "Strength of the face stream; 0 leaves it out."),
                strength("image_strength", 1.0, "Strength of the image stream; 0 leaves it out."),
                fraction("keep_prompt", 0.0, "Removes from both streams what the prompt already determines."),
                fraction(
                    "start_at",
                    0.0,
                    "Share of the sampling after which the person begins to act.",
                    step=0.01,
                    **ADVANCED,
                ),
                fraction(
                    "end_at", 1.0, "Share of the sampling after which the person no longer acts.", step=0.01, **ADVANCED
                ),
                io.Combo.Input("references", options=list(REFERENCES), default="mean", tooltip=SEVERAL, **ADVANCED),
                choice(
                    "curve",
                    NAMES,
                    "flat",
                    "Strength over the model's depth, from its first block to its last; or the "
                    "blocks of a picture's style or composition.",
                    **ADVANCED,
                ),
                io.String.Input(
                    "custom_curve",
                    default="1, 1, 1",
                    optional=True,
                    tooltip="For the curve 'custom': numbers at even distances, joined by lines "
                    "(0, 1, 0.5), or single blocks (3:1, 6:0.5).",
                    **ADVANCED,
                ),
                optional(
                    io.ClipVision, "clip_vision", "The encoder for the whole image; the one the adapter was made with."
                ),
                optional(
                    io.Image,
                    "image",
                    "The whole image, with clothes and surroundings; adapters that encode a face's "
                    "picture cut it out of this, the input of Detect & Embed Faces.",
                ),
                optional(
                    io.ClipVisionOutput,
                    "clip_vision_output",
                    "An image that is encoded already, in place of clip_vision and image.",
                ),
                optional(io.Mask, "mask", "Where in the picture the person is; of a batch, the first mask is used."),
                optional(OPTIONS, "options", "From FaceCDM Apply Options; without it, their defaults."),
                optional(
                    POSE_KEYPOINT,
                    "pose",
                    "The location of the face: the pose that the ControlNet gets, cropped in the same way. "
                    "It raises identity similarity; an adapter with a location head finds the face without it. For "
                    "FaceCDM's own adapters with spatial tokens.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same model, with the person in it.")],
        )

    @classmethod
    @checked
    def execute(cls, **inputs):
        model, warnings = apply_to_model(**inputs)
        return output(model, warnings=warnings)


class _Curve(NamedTuple):
    """The strength of a stream over the layers: one of `curves.NAMES`, the text of a custom one, and its input."""

    name: str
    custom: str
    input_name: str


def apply_to_model(
    model,
    adapter,
    face_strength,
    image_strength,
    keep_prompt,
    start_at,
    end_at,
    references,
    curve,
    faces=None,
    custom_curve="1",
    clip_vision=None,
    image=None,
    clip_vision_output=None,
    mask=None,
    options=None,
    pose=None,
):
    """Return (the MODEL with the person, warnings about unused inputs and a missing pose)."""
    from ..facecdm.formats.features import features
    from ..facecdm.formats.sources import Sources
    from ..facecdm.hosts.comfy.sampling.apply import apply_person, check_base
    from ..facecdm.hosts.comfy.sampling.cfg_rescale import rescale_cfg
    from ..facecdm.hosts.comfy.sampling.lora import apply_lora
    from ..facecdm.hosts.comfy.sampling.times import ScheduledPerson
    from ..facecdm.hosts.comfy.vision import tower_of, vision_output
    from ..facecdm.pose.location import FaceKeypoints, face_keypoints
    from ..facecdm.pose.value import poses_from_openpose

    if start_at >= end_at:
        raise FaceCDMError(f"start_at ({start_at}) must be before end_at ({end_at})")
    check_base(model, adapter)  # first, before errors about faces and towers
    options = options or ApplyOptions()
    check_pixels(image=image, mask=mask, negative_image=options.negative_image)
    shown = features(
        adapter,
        Sources(
            faces,
            tower_of(clip_vision),
            image,
            vision_output(clip_vision_output),
            options.negative_image,
            references,
            options.reference_weights,
            options.structure,
            options.noise,
        ),
    )
    curves = dict.fromkeys(("face", "image"), _Curve(curve, custom_curve, CUSTOM_INPUT))
    if options.image_curve != SAME:
        curves["image"] = _Curve(options.image_curve, options.image_custom_curve, "image_custom_curve")
    strengths = {"face": face_strength, "image": image_strength}
    mask = None if mask is None else mask.reshape(-1, *mask.shape[-2:])[0]
    located = FaceKeypoints(None, None) if pose is None else face_keypoints(poses_from_openpose(pose), mask)
    person = ScheduledPerson(
        adapter,
        face=shown.face,
        image=shown.image,
        negative=shown.negative,
        settings={
            stream: _stream(adapter, stream, strength, curves[stream], keep_prompt, shown.weights(stream), options)
            for stream, strength in strengths.items()
        },
        mask=mask,
        keypoints=located.points,
        aspects=located.aspects,
        per_picture=references == PER_PICTURE,
        start_at=start_at,
        end_at=end_at,
        over_steps=options.over_steps,
    )
    model = apply_person(model, person)
    if face_strength:
        for stream, lora in getattr(adapter, "loras", {}).items():
            part = adapter.config.parts[stream]
            model = apply_lora(model, lora, options.lora_strength * part.family.lora_factor, str(part.path))
    warnings = shown.unused_inputs + pose_warnings(person, pose is not None, located.repeated)
    warnings += strengths_without_effect(adapter, strengths) + _warnings(person, curves, keep_prompt, options)
    return rescale_cfg(model, options.cfg_rescale) if options.cfg_rescale else model, warnings


def _warnings(person: Person, curves: dict[str, _Curve], keep_prompt: float, options: ApplyOptions) -> tuple[str, ...]:
    """Warnings for settings that have no effect on this adapter, and for inputs that it lacks."""
    adapter, given = person.adapter, {"face": person.face, "image": person.image}
    names = ("lora_strength", "structure", "image_curve")
    changed = {name: value for name in names if (value := getattr(options, name)) != getattr(ApplyOptions, name)}
    warnings = mask_missing(person) + mask_black(person.mask, "the person") + unlike_training(person)
    warnings += options_without_effect(adapter, changed)
    for name, stream in adapter.streams.items():
        if curves[name].name == CUSTOM:
            layer_map, curve = adapter.config.layer_map, curves[name]
            warnings += blocks_without_stream(stream, layer_map, curve.custom, curve.input_name)
    if options.projection not in (OWN, NONE):
        warnings += projection_without_effect(person, options.projection)
    if options.projection == NONE:
        warnings += keep_prompt_without_projection(keep_prompt)
    else:
        streams = {stream for stream in adapter.streams if given[stream] is not None}
        warnings += keep_prompt_without_effect(getattr(adapter.config, "parts", {}), streams, keep_prompt)
    return warnings


def _stream(
    adapter,
    name: str,
    strength: float,
    curve: _Curve,
    keep_prompt: float,
    weights: tuple[float, ...],
    options: ApplyOptions,
) -> Stream:
    """Combine the family's and the user's settings of one stream with the balance between prompt and identity."""
    from ..facecdm.formats.families import FAMILIES

    part = getattr(adapter.config, "parts", {}).get(name)
    family = part.family if part else FAMILIES["faceid"]
    end = family.identity_factor if options.balance > 0 else family.prompt_factor
    weight = abs(options.balance)
    projection = family.projection if options.projection in (OWN, NONE) else options.projection
    learnt = adapter.streams[name].kappa.item() if name in adapter.streams else 0.0
    more = max(keep_prompt, weight * family.prompt_kappa if options.balance < 0 else 0.0)
    return Stream(
        strength=strength * (1 + weight * (end - 1)),
        curve=factors_of(curve.name, curve.custom, adapter.config.layer_map, curve.input_name),
        kappa=-learnt if options.projection == NONE else min(more, max(1 - learnt, 0.0)),  # at most 1 in total
        projection=projection,
        zeros=0 if options.projection == NONE else family.zeros.get(projection, 0),
        weights=weights,
    )


NODES = [ApplyFaceCDM, ApplyOptionsNode]
