"""Apply a ControlNet that reads face tokens in place of the prompt, or a LoRA for a ControlNet."""

from pathlib import Path

from comfy_api.latest import io

from ..facecdm.adapter.references import REFERENCES
from ..facecdm.errors import FaceCDMError, MissingModel
from ..facecdm.tensor_file import read_tensors
from .apply import SEVERAL
from .apply_options import WEIGHTS, weights_of
from .checks import check_pixels, checked, validity
from .inputs import choice, fraction, number, optional
from .new_fields import ADVANCED, aliases
from .sockets import ADAPTER, FACES
from .warn import output

NO_LORA = "none"


class ApplyToControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMApplyControlNet",
            display_name="Apply FaceCDM to ControlNet",
            category="FaceCDM",
            **aliases("instantid", "identity", "face controlnet"),
            description="Applies a ControlNet that reads face tokens in place of the prompt, as InstantID's does: pose "
            "from the picture, identity from the faces. Other ControlNets of the chain keep the prompt.",
            inputs=[
                io.Conditioning.Input(
                    "positive", tooltip="The prompt. ControlNets that were applied to it before stay."
                ),
                io.Conditioning.Input("negative", tooltip="The negative prompt; its ControlNet reads an empty face."),
                io.ControlNet.Input("control_net", tooltip="For InstantID its own ControlNet, from Load ControlNet."),
                io.Image.Input(
                    "image",
                    tooltip="The control image: for InstantID the five key points of a face, from Extract Pose.",
                ),
                ADAPTER.Input("adapter", tooltip="The adapter whose face tokens the ControlNet was trained with."),
                FACES.Input("faces", tooltip="The same faces as for Apply FaceCDM."),
                number("strength", 0.8, 0.0, 10.0, 0.05, "Strength of the ControlNet."),
                fraction("start_at", 0.0, "Share of the sampling after which it begins to act.", step=0.01, **ADVANCED),
                fraction("end_at", 1.0, "Share of the sampling after which it no longer acts.", step=0.01, **ADVANCED),
                io.Combo.Input("references", options=list(REFERENCES), default="mean", tooltip=SEVERAL, **ADVANCED),
                fraction(
                    "noise",
                    0.0,
                    "Noise in the empty face of the negative prompt. A little makes overexposed pictures "
                    "softer. Set the same in Apply FaceCDM.",
                    **ADVANCED,
                ),
                optional(io.Mask, "mask", "Where in the picture it acts; of a batch, the first mask is used."),
                io.String.Input("reference_weights", default="", optional=True, tooltip=WEIGHTS, **ADVANCED),
                optional(
                    io.Vae, "vae", "Encodes the control image, for InfiniteYou's InfuseNet and other nets of Flux.1."
                ),
            ],
            outputs=[
                io.Conditioning.Output(display_name="positive", tooltip="The prompt with one more ControlNet."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The negative prompt with one more ControlNet."
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, reference_weights=""):
        return validity("reference_weights", reference_weights, weights_of)

    @classmethod
    @checked
    def execute(
        cls,
        positive,
        negative,
        control_net,
        image,
        adapter,
        faces,
        strength,
        start_at,
        end_at,
        references,
        noise,
        mask=None,
        reference_weights="",
        vae=None,
    ):
        from ..facecdm.formats.sources import Sources
        from ..facecdm.formats.tokens import face_tokens
        from ..facecdm.formats.unused_inputs import mask_black
        from ..facecdm.hosts.comfy.control.face_control import check_net, control_with_faces

        if start_at >= end_at:
            raise FaceCDMError(f"start_at ({start_at}) must be before end_at ({end_at})")
        check_pixels(image=image, mask=mask)
        check_net(control_net, adapter.config.layer_map.context, vae)
        sources = Sources(faces, references=references, weights=weights_of(reference_weights), noise=noise)
        shown, empty = face_tokens(adapter, sources)
        if not strength:
            return io.NodeOutput(positive, negative)
        mask = None if mask is None else mask.reshape(-1, *mask.shape[-2:])[:1]
        return output(
            *control_with_faces(
                positive, negative, control_net, image[..., :3], shown, empty, strength, start_at, end_at, mask, vae
            ),
            warnings=mask_black(mask, "the ControlNet"),
        )


class ApplyLora(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        import folder_paths

        return io.Schema(
            node_id="FaceCDMApplyControlLora",
            display_name="Apply LoRA to ControlNet",
            category="FaceCDM",
            description="Adds a LoRA to the pose ControlNet that it was trained for. The LoRA comes from a training "
            "node or from a file in models/loras.",
            inputs=[
                io.ControlNet.Input("control_net", tooltip="The ControlNet that the LoRA was trained on."),
                number(
                    "strength",
                    1.0,
                    -10.0,
                    10.0,
                    0.05,
                    "How much of the LoRA is added; 0 leaves the ControlNet as it is.",
                ),
                choice(
                    "file",
                    [NO_LORA, *folder_paths.get_filename_list("loras")],
                    NO_LORA,
                    "A file in models/loras; ignored if control_lora is connected.",
                ),
                optional(io.Custom("LORA_MODEL"), "control_lora", "From Train FaceCDM or Train FaceCDM Stage."),
            ],
            outputs=[
                io.ControlNet.Output(
                    display_name="control_net", tooltip="The ControlNet with the LoRA; the given one is not changed."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, control_net, strength, file, control_lora=None):
        from ..facecdm.hosts.comfy.control.lora import control_with_lora

        if not control_lora and file == NO_LORA:
            raise FaceCDMError("no LoRA is given: connect control_lora, or choose a file from models/loras")
        warnings = []
        if control_lora and file != NO_LORA:
            warnings.append(f"file ({file}) is not read, because control_lora is connected. Set file to {NO_LORA}.")
        if strength:
            control_net = control_with_lora(control_net, control_lora or _read_lora(file), strength)
        return output(control_net, warnings=warnings)


def _read_lora(file: str) -> dict:
    import folder_paths

    path = folder_paths.get_full_path("loras", file)
    if path is None:
        raise MissingModel(f"there is no {file} in models/loras; put it there, then refresh the list (R)")
    return read_tensors(Path(path))[0]


NODES: list[type[io.ComfyNode]] = [ApplyToControlNet, ApplyLora]
