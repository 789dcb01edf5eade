"""Good files of every kind at small sizes, with their readers."""

import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import pytest
import torch
from bad_files import REFUSED, Kind
from headers import entries
from lab import tiny_denoiser
from torch import nn

from facecdm import bases
from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import FORMAT, VERSION
from facecdm.bases.layers import Layer, LayerMap
from facecdm.demo import pose_net
from facecdm.demo import weights as demo
from facecdm.demo.autoencoder import build_autoencoder
from facecdm.demo.clip import ClipSizes
from facecdm.demo.sizes import DemoSizes
from facecdm.demo.unet import build_unet
from facecdm.errors import BadFile
from facecdm.faces import Face, Faces, ir_se50, library
from facecdm.formats import bisenet, eva, projectors, siglip
from facecdm.formats.families import pulid, uniportrait
from facecdm.formats.imported import load_any
from facecdm.formats.read import incomplete
from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.pose import openpose
from facecdm.saved_folder import open_model
from facecdm.tensor_file import read_tensors
from facecdm.training.dataset.shard import write_shard
from facecdm.training.dataset.store import Store
from facecdm.training.lora import Lora

SCALE = 16  # the published sizes over 32 are divided by it, so that a file has kilobytes


def small(size: int) -> int:
    return size // SCALE if size > 32 else size


def shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every base model with its own layers at small sizes, and projectors that count heads and features likewise."""
    for name, base in list(bases.BASES.items()):
        layers = tuple(Layer(layer.part, small(layer.width), 1) for layer in base.layer_map.layers)
        scaled = bases.Base(f"small {name}", LayerMap(layers, small(base.text_width)))
        monkeypatch.setitem(bases.BASES, scaled.name, scaled)
    stack = pulid._stack
    monkeypatch.setattr(projectors, "HEAD", 64 // SCALE)
    monkeypatch.setattr(pulid, "HEAD", 64 // SCALE)
    monkeypatch.setattr(pulid, "VISION_WIDTH", 768 // SCALE)
    monkeypatch.setattr(uniportrait, "STRUCTURE", 448 // SCALE)
    monkeypatch.setattr(ir_se50, "IrSe50", small_recogniser)
    layers = {kind.__name__: _small_layer(kind) for kind in (nn.Conv2d, nn.BatchNorm2d)}
    monkeypatch.setattr(bisenet, "nn", SimpleNamespace(**vars(nn) | layers))
    monkeypatch.setattr(pulid, "_stack", lambda width, hidden, out: stack(width, hidden // SCALE, out))


def _small_layer(kind: type) -> Callable[..., nn.Module]:
    """A layer whose sizes are divided as the published ones are; further arguments are not sizes."""
    count = 2 if kind is nn.Conv2d else 1
    return lambda *sizes, **more: kind(*map(small, sizes[:count]), *sizes[count:], **more)


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return {key: torch.randn(shape) / 10 for key, shape in shapes.items()}


def published(name: str) -> Kind:
    entry = entries()[name]
    kept = 512 if entry["family"] == "infiniteyou" else None  # its only mark
    shapes = {
        key: tuple(int(size) if int(size) == kept else small(int(size)) for size in kind.partition(" ")[2].split(","))
        for kind, keys in entry["tensors"].items()
        for key in keys
    }
    unread = "FacialEncoder."  # ConsistentID's
    return Kind(
        name,
        "." + name.rpartition(".")[2],
        random_tensors(shapes),
        load_any,
        optional=lambda key: key.startswith(unread),
    )


def diffusers_named() -> Kind:
    """IP-Adapter inside a U-Net of diffusers: six layers down, nine up, one in the middle."""
    tensors = {}
    for key, value in published("ip-adapter_sd15.safetensors").tensors.items():
        part, _, rest = key.partition(".")
        if part == "image_proj":
            tensors["encoder_hid_proj.image_projection_layers.0." + rest.replace("proj.", "image_embeds.")] = value
        else:
            number, kind = int(rest.split(".")[0]) // 2, "to_k_ip" if "to_k_ip" in rest else "to_v_ip"
            block = f"down_blocks.{number}" if number < 6 else f"up_blocks.{number}" if number < 15 else "mid_block"
            tensors[f"{block}.attentions.0.transformer_blocks.0.attn2.processor.{kind}.0.weight"] = value
    # The numbers of the only layer of a block say nothing.
    return Kind("diffusers", ".safetensors", tensors, load_any, {}, lambda key: "mid_block" in key)


def data_set_shard() -> Kind:
    torch.manual_seed(0)
    keys = ["a", "b", "c"]
    tensors = {"embedding": torch.randn(3, 16), "keypoints": torch.rand(3, 5, 2)}
    with TemporaryDirectory() as folder:
        write_shard(Path(folder) / "a.safetensors", keys, tensors, {})
        metadata = read_tensors(Path(folder) / "a.safetensors")[1]

    def read(path):
        store = Store(path.parent)
        return [store.rows(keys, name) for name in tensors]

    return Kind("shard", ".safetensors", tensors, read, metadata, fp8=REFUSED)


def own_adapter() -> Kind:
    layers = LayerMap.of_runs(32, ("input", 16, 2, 2), ("middle", 16, 2, 1))
    config = AdapterConfig(layers, 24, 4, 8, image_width=20, image_tokens=4, image_layers=1, knots=3, router=True)
    torch.manual_seed(0)
    tensors = {key: value.detach().clone() for key, value in TripletAdapter(config).state_dict().items()}
    metadata = {"format": FORMAT, "version": VERSION, "config": config.dumps()}
    return Kind("own adapter", ".safetensors", tensors, load_any, metadata)


def read_lora(path):
    """As `train` reads the LoRA that a configuration names, and the node a ControlNet's."""
    lora = Lora.from_tensors(read_tensors(path)[0])
    [part.weight for part in lora.parts.values()]
    if not lora.parts:
        raise BadFile("no LoRA")
    return lora


def lora(prefix: str) -> Kind:
    shapes = {}
    for number in range(3):
        name, kernel = f"{prefix}_{number}", (3, 3) if number == 2 else ()
        shapes[f"{name}.lora_down.weight"] = (4, 16, *kernel)
        shapes[f"{name}.lora_up.weight"] = (16, 4, *(1 for _ in kernel))
        shapes[f"{name}.alpha"] = ()
    return Kind(f"lora {prefix}", ".safetensors", random_tensors(shapes), read_lora, {}, lambda key: "alpha" in key)


def vision_tower() -> Kind:
    sizes = eva.EvaSizes(image=28, patch=14, width=64, heads=1, hidden=40, depth=21, out=24)
    state = {f"visual.{key}": value for key, value in eva.EvaTower(sizes).state_dict().items()}
    tensors = random_tensors({key: tuple(value.shape) for key, value in state.items()})
    return Kind("eva", ".pt", tensors, lambda path: eva.load_eva(read_tensors(path)[0], path))


def face_parser() -> Kind:
    torch.manual_seed(0)
    state = bisenet.BiSeNet().state_dict()
    return Kind("bisenet", ".pth", state, bisenet.load_parser, {}, lambda key: key.endswith("num_batches_tracked"))


def face_recogniser() -> Kind:
    """Read as facexlib's; see `shrink`."""
    torch.manual_seed(0)
    state = small_recogniser().state_dict()
    return Kind("ir_se50", ".pth", state, ir_se50.IrSe50Recogniser, {}, lambda key: key.endswith("num_batches_tracked"))


def small_recogniser() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.PReLU(4), nn.Flatten(), nn.Linear(16, 8))


def siglip_head() -> Kind:
    shapes = {key: tuple(value.shape) for key, value in siglip.PoolingHead(32, 48, 4).state_dict().items()}
    tensors = random_tensors({siglip.PREFIX + key: shape for key, shape in shapes.items()})

    def read(path):
        with incomplete(path):
            return siglip.PoolingHead.of(read_tensors(path)[0], 4)

    return Kind("siglip", ".safetensors", tensors, read)


class Package(nn.Module):
    """A net of the package controlnet_aux, which reads a file as those do: in full, whatever it holds."""

    def __init__(self, path: str):
        super().__init__()
        self.conv1_1, self.conv1_2 = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
        stored = torch.load(path, weights_only=True)
        self.load_state_dict({name: stored[name] for name in self.state_dict()})


def openpose_part() -> Kind:
    shapes = {
        "conv1_1.weight": (4, 3, 3, 3),
        "conv1_1.bias": (4,),
        "conv1_2.weight": (4, 4, 3, 3),
        "conv1_2.bias": (4,),
    }
    return Kind("openpose", ".pth", random_tensors(shapes), lambda path: openpose._load(Package, path))


def demo_pose() -> Kind:
    """For a U-Net of 5 blocks, in the names of core's control-LoRA."""
    unet = tiny_denoiser().network
    torch.manual_seed(0)
    tensors = pose_net.control_lora(pose_net.PoseNet(unet, 2).state_dict(), (1, 1))
    return Kind(
        "demo pose",
        ".safetensors",
        tensors,
        lambda path: pose_net.read(path, unet),
        {},
        lambda key: key == pose_net.MARK,
    )


def demo_model() -> Kind:
    sizes = DemoSizes(
        image_size=32, latent_channels=8, refiner_width=8, channels=(64,), attention=(True,), clip=ClipSizes(64, 1, 1)
    )
    torch.manual_seed(0)
    parts = {"unet": build_unet(sizes.unet_config()), "vae": build_autoencoder(sizes)}
    tensors = {f"{part}.{key}": value.half() for part, net in parts.items() for key, value in net.state_dict().items()}
    metadata = {"format": demo.FORMAT, "sizes": sizes.to_json(), "token_ids": "[320]", "steps": "{}"}
    return Kind("demo model", ".safetensors", tensors, lambda path: demo_denoiser(demo.read(path)), metadata)


def diffusers_controlnet() -> Kind:
    """The weights of a folder that diffusers saved."""
    from diffusers import ControlNetModel

    unet = tiny_denoiser().network
    net = ControlNetModel.from_unet(unet, conditioning_embedding_out_channels=(4, 8))

    def read(path):
        # The library reads a file of this name only.
        name = path.parent / "diffusion_pytorch_model.safetensors"
        if os.path.exists(path) and path.suffix == name.suffix:
            path.rename(name)
        net.save_config(path.parent)
        return open_model(ControlNetModel, path.parent)

    return Kind("diffusers ControlNet", ".safetensors", net.state_dict(), read)


def face_library() -> Kind:
    torch.manual_seed(0)
    marks = torch.rand(106, 2)
    one = Face(torch.randn(16), torch.rand(5, 2), torch.rand(4), 0.9, (64, 64), 0, torch.rand(8, 8, 3), marks, "a")
    faces = Faces((one, one), "buffalo_s/w600k_mbf.onnx", 1)
    return Kind(
        "faces", ".safetensors", library._tensors(faces), library.load_faces, library._metadata(faces),
        lambda key: key.startswith("landmarks") or key in ("image_sizes", "image_indices"), REFUSED,
    )  # fmt: skip


KINDS: dict[str, Callable[[], Kind]] = {
    **{name: lambda name=name: published(name) for name in entries()},
    "diffusers names": diffusers_named,
    "data-set shard": data_set_shard,
    "own adapter": own_adapter,
    "lora": lambda: lora("lora_unet_a"),
    "control lora": lambda: lora("control_model.input_blocks"),
    "eva": vision_tower,
    "bisenet": face_parser,
    "faces": face_library,
    "ir_se50": face_recogniser,
    "siglip": siglip_head,
    "openpose": openpose_part,
    "demo pose": demo_pose,
    "demo model": demo_model,
    "diffusers ControlNet": diffusers_controlnet,
}
