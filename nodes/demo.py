"""The small text-to-image model that comes with FaceCDM, and its trained adapter."""

from comfy_api.latest import io

from ..facecdm.bases.demo import DEMO
from ..facecdm.demo.paths import ADAPTER, ADAPTER_LORA, default_path, in_use
from ..facecdm.files import file_fingerprint
from .checks import checked
from .sockets import ADAPTER as ADAPTER_SOCKET

SIZE = f"{DEMO.resolution} × {DEMO.resolution}"


class LoadDemoModel(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadDemoModel",
            display_name="Load FaceCDM Demo Model",
            category="FaceCDM/demo",
            description=f"The small model that comes with the pack: portraits of {SIZE} pixels (Empty Latent "
            f"Image {SIZE}, euler, karras, 20 steps, CFG 4). It knows only the words of its training captions, for "
            "example: a young woman, long red hair, smiling, green striped shirt, plain blue background.",
            inputs=[],
            outputs=[
                io.Model.Output(
                    tooltip="The U-Net, v-prediction with zero terminal SNR, and perturbed-attention guidance in all "
                    "of its self-attentions for sharper faces."
                ),
                io.Clip.Output(tooltip="The text tower of a small CLIP."),
                io.Vae.Output(
                    tooltip="The model's own autoencoder; its latents have an eighth of the picture's width and height."
                ),
                io.ClipVision.Output(tooltip="The vision tower of the same CLIP, 96 × 96 pixels."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls) -> str:
        return file_fingerprint(default_path())

    @classmethod
    def execute(cls) -> io.NodeOutput:
        from ..facecdm.hosts.comfy.demo import model
        from ..facecdm.hosts.comfy.demo.guidance import guided

        demo = model.load()
        demo.clip.tokenizer.report = _show_unknown
        return io.NodeOutput(guided(demo.model), demo.clip, demo.vae, demo.clip_vision)


class LoadDemoAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadDemoAdapter",
            display_name="Load FaceCDM Demo Adapter",
            category="FaceCDM/demo",
            description="The triplet adapter of the demo model, trained on thousands of synthetic people, and the LoRA "
            "that was trained with it. Connect Apply FaceCDM's pose to set the face's location.",
            inputs=[io.Model.Input("model", tooltip="From Load FaceCDM Demo Model.")],
            outputs=[
                io.Model.Output(display_name="model", tooltip="With the LoRA, for Apply FaceCDM."),
                ADAPTER_SOCKET.Output(display_name="adapter", tooltip="For Apply FaceCDM."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **_) -> str:
        return " ".join(file_fingerprint(in_use(path)) for path in (ADAPTER, ADAPTER_LORA))

    @classmethod
    @checked
    def execute(cls, model) -> io.NodeOutput:
        from ..facecdm.hosts.comfy.demo import adapter

        return io.NodeOutput(*adapter.load(model))


def _show_unknown(words: list[str]) -> None:
    """Show unknown words on the node that encodes the prompt."""
    from ..facecdm.hosts.comfy import running_node

    if words:
        names = ", ".join(words[:20]) + (" …" if len(words) > 20 else "")
        running_node.warn([f"the demo model does not know: {names}. It knows the words of its captions only."])


NODES: list[type[io.ComfyNode]] = [LoadDemoModel, LoadDemoAdapter]
