"""Several people in one picture: Person Regions, Apply FaceCDM to People."""

import torch
from comfy_api.latest import io, ui

from ..facecdm.adapter.references import MEAN
from ..facecdm.errors import FaceCDMError
from ..facecdm.people.draw import draw_regions
from ..facecdm.people.regions import FILLS, SHAPES, boxes_of_faces, parse_boxes, regions_of_boxes, regions_of_layout
from .apply import apply_to_model
from .checks import check_pixels, checked
from .inputs import choice, fraction, number, optional, strength
from .new_fields import ADVANCED, aliases
from .sockets import ADAPTER, FACES, OPTIONS, POSE_KEYPOINT
from .warn import output

PEOPLE = 4


class PersonRegions(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMPersonRegions",
            display_name="Person Regions",
            category="FaceCDM/people",
            **aliases("several people", "regional masks", "couple"),
            description="A soft mask for each person of a picture: from boxes, from the faces of a layout picture, or "
            "from a painted one. Neighbouring masks share their border and never sum to more than one.",
            inputs=[
                io.Int.Input("width", default=1024, min=16, max=16384, step=8, tooltip="Of the picture to be made."),
                io.Int.Input("height", default=512, min=16, max=16384, step=8, tooltip="Of the picture to be made."),
                io.String.Input(
                    "boxes",
                    default="0 0 0.5 1\n0.5 0 1 1",
                    multiline=True,
                    tooltip="Left, top, right, bottom as parts of the picture, one line per person; not used if faces "
                    "or layout is connected.",
                ),
                choice("shape", SHAPES, "box", "Rectangles, or ellipses in them; a painted layout has its own shapes."),
                number("grow", 1.0, 0.1, 4.0, 0.05, "Makes every region larger or smaller about its middle."),
                fraction(
                    "softness",
                    0.1,
                    "Width of the soft borders: as part of half a region, or of a painted layout's shorter side.",
                    step=0.01,
                ),
                choice(
                    "fill",
                    FILLS,
                    "regions only",
                    "Leave the rest as background, or divide the whole picture among the people.",
                ),
                optional(
                    FACES, "faces", "Faces found in a layout picture: each region is head and shoulders around a face."
                ),
                optional(io.Image, "layout", "A painted picture: one colour per person, black background."),
            ],
            outputs=[
                io.Mask.Output(display_name="masks", tooltip="All people's masks as a batch."),
                *(
                    io.Mask.Output(display_name=f"person {n}", tooltip=f"Mask of person {n}; black if there is none.")
                    for n in range(1, PEOPLE + 1)
                ),
                io.Mask.Output(display_name="background", tooltip="The part outside of all regions."),
                io.Image.Output(display_name="preview", tooltip="The regions in colours, with numbers."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, width, height, boxes, shape, grow, softness, fill, faces=None, layout=None):
        if faces is not None and layout is not None:
            raise FaceCDMError(
                "faces and layout are both connected, and both define the regions: disconnect one of them"
            )
        warnings = []
        if layout is not None:
            warnings = cls._without_effect(shape=shape, grow=grow, fill=fill)
            regions = regions_of_layout(layout[0].float().cpu(), height, width, softness)
        else:
            regions = regions_of_boxes(
                parse_boxes(boxes) if faces is None else boxes_of_faces(faces),
                height,
                width,
                shape=shape,
                grow=grow,
                softness=softness,
                fill=fill,
            )
        none = torch.zeros(1, height, width)
        single = [regions.masks[n : n + 1] if n < len(regions) else none for n in range(PEOPLE)]
        preview = draw_regions(regions)
        return output(
            regions.masks,
            *single,
            regions.background[None],
            preview,
            warnings=warnings,
            preview=ui.PreviewImage(preview, cls=cls),
        )

    @classmethod
    def _without_effect(cls, **settings) -> list[str]:
        """Warnings for settings that are not the defaults, beside a painted layout."""
        defaults = {entry.id: getattr(entry, "default", None) for entry in cls.define_schema().inputs}
        return [
            f"{name} is {value} and has no effect: a painted layout has its own shapes and sizes. Set it to "
            f"{defaults[name]}."
            for name, value in settings.items()
            if value != defaults[name]
        ]


class ApplyToPeople(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        everybody = range(1, PEOPLE + 1)
        return io.Schema(
            node_id="FaceCDMApplyPeople",
            display_name="Apply FaceCDM to People",
            category="FaceCDM/people",
            **aliases("several people", "couple", "regional", "identity", "consistent character"),
            description="Patches several people into the model, each in a region of their own. It equals a chain of "
            "Apply FaceCDM nodes, one per person.",
            inputs=[
                io.Model.Input("model", tooltip="The model to patch; its existing patches stay."),
                ADAPTER.Input("adapter", tooltip="An adapter made for this base model."),
                io.Mask.Input("masks", tooltip="The batch of Person Regions: its first mask for faces_1, and so on."),
                strength("face_strength", 1.0, "Strength of the face streams."),
                strength("image_strength", 1.0, "Strength of the image streams."),
                fraction("keep_prompt", 0.0, "Removes from both streams what the prompt already determines."),
                fraction(
                    "start_at", 0.0, "Share of the sampling after which the people begin to act.", step=0.01, **ADVANCED
                ),
                fraction(
                    "end_at", 1.0, "Share of the sampling after which the people no longer act.", step=0.01, **ADVANCED
                ),
                *(
                    optional(
                        FACES,
                        f"faces_{n}",
                        f"Faces of person {n}, from one or several photos; adapters that encode only images need none.",
                    )
                    for n in everybody
                ),
                optional(io.ClipVision, "clip_vision", "The encoder for the whole images."),
                *(optional(io.Image, f"image_{n}", f"The whole image of person {n}.") for n in everybody),
                optional(OPTIONS, "options", "From FaceCDM Apply Options, for all people; without it, the defaults."),
                optional(
                    POSE_KEYPOINT,
                    "pose",
                    "The locations of the faces, as in Apply FaceCDM: each person gets the face that their mask "
                    "covers most.",
                ),
            ],
            outputs=[io.Model.Output(tooltip="The same model, with the people in it.")],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model,
        adapter,
        masks,
        face_strength,
        image_strength,
        keep_prompt,
        start_at,
        end_at,
        clip_vision=None,
        pose=None,
        options=None,
        **people,
    ):
        check_pixels(masks=masks)
        masks = masks.reshape(-1, *masks.shape[-2:])
        connected = {
            n: [name for name in (f"faces_{n}", f"image_{n}") if people.get(name) is not None]
            for n in range(1, PEOPLE + 1)
        }
        present = [n for n, names in connected.items() if names]
        if not present:
            raise FaceCDMError(
                "no person is connected: connect faces_1 (from Detect & Embed Faces), or image_1 for an "
                "adapter that encodes pictures"
            )
        if present[-1] > len(masks):
            raise FaceCDMError(
                f"{connected[present[-1]][0]} is connected, and masks has {len(masks)} "
                f"{'mask' if len(masks) == 1 else 'masks'}: give Person Regions a region for every person"
            )
        warnings = []
        for n in present:
            try:
                model, of_person = apply_to_model(
                    model=model,
                    adapter=adapter,
                    faces=people.get(f"faces_{n}"),
                    face_strength=face_strength,
                    image_strength=image_strength,
                    keep_prompt=keep_prompt,
                    start_at=start_at,
                    end_at=end_at,
                    references=MEAN,
                    curve="flat",
                    clip_vision=clip_vision,
                    image=people.get(f"image_{n}"),
                    mask=masks[n - 1],
                    pose=pose,
                    options=options,
                )
            except FaceCDMError as error:
                raise type(error)(f"person {n}: {error}") from error
            warnings += [f"person {n}: {text}" for text in of_person]
        return output(model, warnings=warnings)


NODES = [PersonRegions, ApplyToPeople]
