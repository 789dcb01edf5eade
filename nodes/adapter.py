"""Nodes for the adapter: make, load, combine, save, export."""

from pathlib import Path

import torch
from comfy_api.latest import io

from ..facecdm.adapter.config import AdapterConfig, content_of
from ..facecdm.adapter.model import TripletAdapter
from ..facecdm.adapter.native import save_adapter
from ..facecdm.bases import name_of
from ..facecdm.errors import FaceCDMError
from ..facecdm.files import check_filename, file_fingerprint, find_named, write_named
from ..facecdm.formats.export import export
from ..facecdm.formats.families import FAMILIES
from ..facecdm.formats.imported import ImportedAdapter, combine, load_any
from ..facecdm.formats.read import SUFFIXES
from ..facecdm.formats.recognise import AUTO
from . import eva, towers
from .checks import checked, validity
from .inputs import choice, integer, optional, switch
from .model_folders import ADAPTERS, PUBLISHED_ADAPTERS, folders
from .new_fields import ADVANCED, aliases
from .sockets import ADAPTER

NO_FILE = "none saved yet"
CATEGORY = "FaceCDM/adapter"
HINT = "Save an adapter with Save FaceCDM Adapter, or put its file into that folder, then refresh the list (R)."


def saved_names() -> list[str]:
    """List FaceCDM's own files by name, then published ones as folder/name."""
    import folder_paths

    found = list(folder_paths.get_filename_list(ADAPTERS))
    for key in PUBLISHED_ADAPTERS:
        found += [f"{key}/{name}" for name in folder_paths.get_filename_list(key) if name.lower().endswith(SUFFIXES)]
    return found


def adapter_file(name: str) -> Path:
    """Find an adapter file. Raises UnsafeName, MissingModel."""
    key, _, rest = name.replace("\\", "/").partition("/")
    if key in PUBLISHED_ADAPTERS and not any((folder / name).is_file() for folder in folders(ADAPTERS)):
        return find_named(folders(key), rest, f"Put it into models/{key}, then refresh the list (R).", SUFFIXES)
    return find_named(folders(ADAPTERS), name, HINT, SUFFIXES)


class NewAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMNewAdapter",
            display_name="New FaceCDM Adapter",
            category=CATEGORY,
            **aliases("train identity", "ipadapter training"),
            description="Makes a new triplet adapter for this model. It is an exact no-op until it is trained.",
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="The base model (SD1.5, SD2, SDXL, Flux.1, Chroma, SD3.5, Qwen-Image, Z-Image or the demo "
                    "model).",
                ),
                optional(
                    io.ClipVision,
                    "clip_vision",
                    "The encoder of whole images. Without it the adapter has only a face stream.",
                ),
                io.Int.Input(
                    "face_tokens",
                    default=4,
                    min=1,
                    max=1296,
                    tooltip="Number of face tokens. If you train on 32 people or more, use 1024 to condition the "
                    "adapter on face location, which raised identity similarity most on the demo model; its preset is "
                    "located adapter.",
                ),
                io.Int.Input("image_tokens", default=8, min=1, max=64, tooltip="Number of image tokens."),
                integer("face_rank", 128, 4, 512, "Width of the face projector's bottleneck.", **ADVANCED),
                switch(
                    "interplay",
                    False,
                    "Let face, image and text tokens attend to each other before the base model's layers. Training is "
                    "slower; in docs/results.md it does not improve the result.",
                    **ADVANCED,
                ),
                integer(
                    "seed",
                    0,
                    0,
                    2**53,
                    "Seed of the projectors' initial weights.",
                    control_after_generate=False,
                    **ADVANCED,
                ),
                switch(
                    "router",
                    False,
                    "Weight face and image at each position of the picture by how well they and the prompt "
                    "agree there. Slower; read docs/results.md before you use it. For U-Nets only.",
                    optional=True,
                    **ADVANCED,
                ),
                integer(
                    "knots",
                    8,
                    1,
                    64,
                    "Number of noise levels at which the gates are learnt. With 1 they are the same at all noise "
                    "levels, which Export FaceCDM as IP-Adapter requires.",
                    optional=True,
                    **ADVANCED,
                ),
            ],
            outputs=[
                ADAPTER.Output(display_name="adapter", tooltip="For Apply FaceCDM and Save FaceCDM Adapter."),
                _report(),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model, face_tokens, image_tokens, face_rank, interplay, seed, clip_vision=None, router=False, knots=8
    ):
        from ..facecdm.hosts.comfy.base_model import layer_map, text_keys_values

        config = AdapterConfig.new(
            layer_map(model),
            face_tokens=face_tokens,
            face_content=content_of(face_tokens),
            face_rank=face_rank,
            interplay=interplay,
            image_tokens=image_tokens,
            image_width=_vision_width(clip_vision),
            router=router,
            knots=knots,
        )
        weights = list(text_keys_values(model))
        dtype = weights[0][0].dtype if weights else torch.bfloat16
        dtype = dtype if dtype in (torch.float32, torch.bfloat16) else torch.float16
        # A trainer cannot use inference tensors.
        with torch.inference_mode(False), torch.random.fork_rng(devices=[]):
            torch.random.default_generator.manual_seed(seed)
            adapter = TripletAdapter(config, dtype).init_from_text(weights)
        return io.NodeOutput(adapter.requires_grad_(False).eval(), describe(adapter))


class LoadAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMLoadAdapter",
            display_name="Load FaceCDM Adapter",
            category=CATEGORY,
            **aliases("ipadapter", "ip-adapter", "faceid", "instantid", "pulid", "withanyone", "identity"),
            description="Reads a FaceCDM adapter from models/facecdm, or a published one (IP-Adapter, FaceID, "
            "InstantID, PuLID, WithAnyone) from models/ipadapter, models/instantid or models/pulid, and reports what "
            "it is.",
            inputs=[
                io.Combo.Input(
                    "name",
                    options=saved_names() or [NO_FILE],
                    tooltip="A file in models/facecdm, models/ipadapter, models/instantid or models/pulid.",
                ),
                choice(
                    "family",
                    [AUTO, *FAMILIES],
                    AUTO,
                    "The file's family, if neither its content nor its name decides; see the report.",
                    optional=True,
                    **ADVANCED,
                ),
                choice(
                    "vision_tower",
                    [towers.AUTO, *towers.tower_names()],
                    towers.AUTO,
                    "The vision tower that clip_vision loads; auto: the one that the adapter was trained with.",
                    optional=True,
                    **ADVANCED,
                ),
            ],
            outputs=[
                ADAPTER.Output(display_name="adapter", tooltip="For Apply FaceCDM."),
                _report(),
                io.ClipVision.Output(
                    display_name="clip_vision",
                    tooltip="The vision tower that the adapter was trained with, found in models/clip_vision and "
                    "loaded when first used. Nothing for an adapter that encodes no picture.",
                ),
            ],
        )

    OWN_CHECKS = ("vision_tower",)  # towers.tower_path names the command that downloads a missing one

    @classmethod
    def validate_inputs(cls, name=None):
        return validity("name", name, adapter_file)

    @classmethod
    def fingerprint_inputs(cls, name=None, family=AUTO, vision_tower=towers.AUTO):
        try:
            files = (adapter_file(name or ""), eva.parser_file())
        except (FaceCDMError, OSError):
            return "missing"
        return "/".join([family, *map(file_fingerprint, files)])

    @classmethod
    @checked
    def execute(cls, name, family=AUTO, vision_tower=towers.AUTO):
        with torch.inference_mode(False):
            adapter = load_any(adapter_file(name), family)
        return io.NodeOutput(adapter, describe(adapter), towers.tower_of_adapter(adapter, vision_tower))


class CombineAdapters(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMCombineAdapters",
            display_name="Combine FaceCDM Adapters",
            category=CATEGORY,
            **aliases("ipadapter", "faceid plus"),
            description="Combines two published adapters into one triplet: the face stream of one (FaceID, InstantID, "
            "PuLID) and the image stream of the other (IP-Adapter, Plus, Plus-Face …).",
            inputs=[
                ADAPTER.Input("adapter", tooltip="One of the two; the order does not matter."),
                ADAPTER.Input("other", tooltip="The other, for the same base model."),
            ],
            outputs=[ADAPTER.Output(display_name="adapter", tooltip="The adapter with both streams."), _report()],
        )

    @classmethod
    @checked
    def execute(cls, adapter, other):
        both = combine(adapter, other)
        return io.NodeOutput(both, describe(both))


class ExportAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMExportAdapter",
            display_name="Export FaceCDM as IP-Adapter",
            category=CATEGORY,
            **aliases("save ipadapter"),
            description="Writes an adapter into models/ipadapter as a plain IP-Adapter file for other programs. If the "
            "format cannot hold all of the adapter, the error says what would be lost.",
            is_output_node=True,
            inputs=[
                ADAPTER.Input("adapter", tooltip="The adapter to export."),
                io.String.Input("name", default="my adapter", tooltip="File name without folder and suffix."),
                switch("overwrite", False, "Replace a file of that name. Otherwise a number is appended."),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Path of the file."), _report()],
        )

    @classmethod
    @checked
    def execute(cls, adapter, name, overwrite):
        check_filename(name)
        exported = export(adapter)
        path = write_named(exported.data(name), folders(PUBLISHED_ADAPTERS[0])[0], name, overwrite)
        return io.NodeOutput(str(path), exported.report)


class SaveAdapter(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMSaveAdapter",
            display_name="Save FaceCDM Adapter",
            category=CATEGORY,
            description="Writes an adapter into models/facecdm as safetensors, with its configuration in the metadata.",
            is_output_node=True,
            inputs=[
                ADAPTER.Input("adapter", tooltip="The adapter to save."),
                io.String.Input("name", default="my adapter", tooltip="File name without folder and suffix."),
                switch("overwrite", False, "Replace a file of that name. Otherwise a number is appended."),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Path of the file.")],
        )

    @classmethod
    @checked
    def execute(cls, adapter, name, overwrite):
        if isinstance(adapter, ImportedAdapter):
            raise FaceCDMError(
                "this adapter was published in another format, which Save FaceCDM Adapter does not write: keep its "
                "file, or use Export FaceCDM as IP-Adapter"
            )
        return io.NodeOutput(str(save_adapter(adapter, folders(ADAPTERS)[0], name, overwrite)))


def _report() -> io.String.Output:
    return io.String.Output(display_name="report", tooltip="Base model, streams, size, and whether it is trained.")


def describe(adapter: TripletAdapter | ImportedAdapter) -> str:
    """Describe an adapter's base model, streams, size and state in a few lines."""
    config = adapter.config
    if isinstance(adapter, ImportedAdapter):
        return "\n".join(part.report() for part in config.parts.values())
    weights = sum(value.numel() for value in adapter.parameters())
    lines = [
        f"base: {name_of(config.layer_map)}, {_layers(config)}",
        f"face: {config.face_width} features → {config.face_tokens} tokens",
        (
            f"image: {config.image_width} features → {config.image_tokens} tokens"
            if config.image_width
            else "image: no stream"
        ),
        f"weights: {weights / 1e6:.1f} M",
        f"recogniser: {config.recogniser or 'any'}",
    ]
    if config.spatial_tokens:
        lines.insert(2, f"face location: {'found by itself, or ' if config.location_channels else ''}given by pose")
    return "\n".join([*lines, "untrained: an exact no-op"] if adapter.is_new else lines)


def _layers(config: AdapterConfig) -> str:
    count = len(config.layer_map.layers)
    return (
        f"cells after {len(config.cells_at)} of {count} blocks"
        if config.layer_map.is_dit
        else f"{count} cross-attention layers"
    )


def _vision_width(clip_vision) -> int:
    """Width of the tower's penultimate hidden states; 0 without a tower."""
    if clip_vision is None:
        return 0
    return clip_vision.encode_image(torch.zeros(1, 64, 64, 3)).penultimate_hidden_states.shape[-1]


NODES = [NewAdapter, LoadAdapter, CombineAdapters, SaveAdapter, ExportAdapter]
