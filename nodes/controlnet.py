"""Apply FaceCDM to ControlNet: a ControlNet that reads the face where it would read the prompt."""

from comfy_api.latest import io

from ..facecdm.adapter.references import REFERENCES
from ..facecdm.errors import FaceCDMError
from .apply import SEVERAL
from .apply_options import WEIGHTS, weights_of
from .sockets import ADAPTER, FACES


class ApplyToControlNet(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMApplyControlNet",
            display_name="Apply FaceCDM to ControlNet",
            category="FaceCDM",
            description="Applies a ControlNet that reads face tokens in place of the prompt, as InstantID's does: pose "
                        "from the picture, identity from the faces. Other ControlNets of the chain keep the prompt.",
            inputs=[
                io.Conditioning.Input("positive", tooltip="The prompt; ControlNets that it has already stay."),
                io.Conditioning.Input("negative", tooltip="The negative prompt; its ControlNet sees nobody's face."),
                io.ControlNet.Input("control_net", tooltip="For InstantID its own ControlNet, from Load ControlNet."),
                io.Image.Input("image", tooltip="What the ControlNet sees: for InstantID the five key points of a "
                                                "face, from Extract Pose."),
                ADAPTER.Input("adapter", tooltip="The adapter whose face tokens the ControlNet was trained with."),
                FACES.Input("faces", tooltip="The same faces as for Apply FaceCDM."),
                io.Float.Input("strength", default=0.8, min=0.0, max=10.0, step=0.05,
                               tooltip="How strongly the ControlNet holds the picture."),
                io.Float.Input("start_at", default=0.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which it begins to act."),
                io.Float.Input("end_at", default=1.0, min=0.0, max=1.0, step=0.01,
                               tooltip="Share of the sampling after which it no longer acts."),
                io.Combo.Input("references", options=list(REFERENCES), default="mean",
                               tooltip=SEVERAL),
                io.Float.Input("noise", default=0.0, min=0.0, max=1.0, step=0.05,
                               tooltip="Noise in the empty face that the negative prompt sees; some makes hard, burnt "
                                       "pictures softer. Set the same in Apply FaceCDM."),
                io.Mask.Input("mask", optional=True,
                              tooltip="Where in the picture it acts; of a batch the first counts."),
                io.String.Input("reference_weights", default="", optional=True, tooltip=WEIGHTS),
            ],
            outputs=[io.Conditioning.Output(display_name="positive", tooltip="The prompt with one more ControlNet."),
                     io.Conditioning.Output(display_name="negative", tooltip="The negative prompt with it.")],
        )

    @classmethod
    def validate_inputs(cls, references="mean", reference_weights=""):
        if references not in REFERENCES:
            return f"references must be one of {', '.join(REFERENCES)}; got {references!r}"
        try:
            weights_of(reference_weights)
        except FaceCDMError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, positive, negative, control_net, image, adapter, faces, strength, start_at, end_at, references,
                noise, mask=None, reference_weights=""):
        from ..facecdm.hosts.comfy_control import check_net, control_with_faces
        from ..facecdm.hosts.comfy_features import Sources
        from ..facecdm.hosts.comfy_tokens import face_tokens

        if start_at >= end_at:
            raise FaceCDMError(f"start_at ({start_at}) must be before end_at ({end_at})")
        check_net(control_net, adapter.config.layer_map.context)
        sources = Sources(faces, references=references, weights=weights_of(reference_weights), noise=noise)
        shown, nobody = face_tokens(adapter, sources)
        if not strength:
            return io.NodeOutput(positive, negative)
        mask = None if mask is None else mask.reshape(-1, *mask.shape[-2:])[:1]
        return io.NodeOutput(*control_with_faces(positive, negative, control_net, image[..., :3], shown, nobody,
                                                 strength, start_at, end_at, mask))


NODES: list[type[io.ComfyNode]] = [ApplyToControlNet]
