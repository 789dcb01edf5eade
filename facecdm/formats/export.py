"""Export FaceCDM's adapters as plain IP-Adapter files, if the format can represent them completely."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import __version__
from ..adapter.model import StreamLayers, TripletAdapter
from ..bases import name_of
from ..errors import FaceCDMError
from .imported import ImportedAdapter
from .read import State
from .recognise import FORMAT_KEY

HIDDEN = 1024  # hidden features of FaceID's projector, as IPAdapter_plus builds it
FACEID, PORTRAIT = 4, 16  # numbers of tokens in IPAdapter_plus


@dataclass(frozen=True, eq=False)
class Exported:
    """A plain IP-Adapter's tensors, its family, and a report for the user."""

    image_proj: State
    ip_adapter: State
    family: str
    report: str

    def data(self, title: str) -> bytes:
        """A .safetensors file."""
        from safetensors.torch import save

        flat = {
            f"{part}.{key}": value.detach().cpu().contiguous()
            for part, state in (("image_proj", self.image_proj), ("ip_adapter", self.ip_adapter))
            for key, value in state.items()
        }
        return save(
            flat,
            {
                FORMAT_KEY: self.family,
                "modelspec.sai_model_spec": "1.0.0",
                "modelspec.title": title,
                "modelspec.implementation": f"FaceCDM {__version__}",
            },
        )


def export(adapter: TripletAdapter | ImportedAdapter) -> Exported:
    """Convert an adapter to a plain IP-Adapter. Raises FaceCDMError that names the parts that would be lost."""
    return _published(adapter) if isinstance(adapter, ImportedAdapter) else _own(adapter)


def _published(adapter: ImportedAdapter) -> Exported:
    if len(adapter.config.parts) != 1:
        raise FaceCDMError(
            "this adapter is a combination of two, and an IP-Adapter file holds one: export each separately"
        )
    ((stream, part),) = adapter.config.parts.items()
    if part.layer_map.is_dit:
        raise FaceCDMError(
            f"this adapter is {part.family.name} for {name_of(part.layer_map)}, and an IP-Adapter file holds keys and "
            "values of a U-Net: keep its own file"
        )
    if part.family.ignored:
        unread = ", ".join(prefix.rstrip(".") for prefix in part.family.ignored)
        raise FaceCDMError(
            f"this adapter is {part.family.name}, whose {unread} was not loaded, and a file without it would be taken "
            "for another family: keep its own file"
        )
    layers = {
        f"{2 * i + 1}.to_{name}_ip.weight": module.weight
        for name in "kv"
        for i, module in enumerate(getattr(adapter.streams[stream], f"to_{name}"))
    }
    return Exported(
        dict(adapter.projectors[stream].state_dict()),
        layers | adapter.loras.get(stream, {}),
        part.family.key,
        f"{part.family.name} for {name_of(part.layer_map)}, as it was loaded",
    )


def _own(adapter: TripletAdapter) -> Exported:
    config, face = adapter.config, adapter.streams["face"]
    if config.layer_map.is_dit:
        raise FaceCDMError(
            f"it has cells for the blocks of {name_of(config.layer_map)}, and an IP-Adapter file holds keys and values "
            "of a U-Net: save it with Save FaceCDM Adapter"
        )
    if adapter.depends_on_text:
        raise FaceCDMError(
            "its interplay with the text was trained, and an IP-Adapter file cannot hold it. Train an adapter with "
            "interplay off to export it."
        )
    if float(face.kappa):
        raise FaceCDMError(
            f"its face stream removes the text's part (κ = {float(face.kappa):.3g}), and an IP-Adapter file cannot "
            "hold κ. Train an adapter without kappa in train to export it."
        )
    if face.router is not None and face.router.any():
        raise FaceCDMError(
            "its router weights every position, and an IP-Adapter file cannot hold a router. Train an adapter with "
            "router off to export it."
        )
    if not torch.equal(face.gate.knots, face.gate.knots[:1].expand_as(face.gate.knots)):
        raise FaceCDMError(
            "its gates change with the noise level, and an IP-Adapter file has one strength for all levels. Train an "
            "adapter with knots at 1 to export it."
        )
    if face.gate.is_zero:
        raise FaceCDMError("it is untrained: its gates are zero, so the file would have no effect")
    if config.face_content:
        raise FaceCDMError(
            "its tokens share one linear map of their content (face_content), and an IP-Adapter file cannot hold that. "
            "Train an adapter with face_content at 0 to export it."
        )
    if config.face_tokens not in (FACEID, PORTRAIT) or config.face_rank > HIDDEN:
        raise FaceCDMError(
            f"it has {config.face_tokens} face tokens and rank {config.face_rank}, and other programs read {FACEID} or "
            f"{PORTRAIT} tokens and at most rank {HIDDEN}: train an adapter of such sizes"
        )
    report = [
        f"FaceID for {name_of(config.layer_map)}, {config.face_tokens} tokens",
        f"recogniser: {config.recogniser or 'any'}",
        "Other programs give the negative prompt the tokens of an empty face; FaceCDM leaves it unchanged.",
    ]
    if config.spatial_tokens:
        report.append("Conditioning on the face's location is left out, so the likeness is lower.")
    if config.image_width:
        report.append("The image stream is left out, since its resampler is not IP-Adapter's.")
    layers = _folded(face, config.layer_map)
    if config.face_tokens == FACEID:
        layers |= _empty_lora(config.layer_map)
    return Exported(
        _projector(adapter), layers, "faceid" if config.face_tokens == FACEID else "faceid-portrait", "\n".join(report)
    )


def _projector(adapter: TripletAdapter) -> State:
    """The bottleneck in FaceID's layout: linear, GELU, linear, norm.

    The subtraction of the mean becomes part of the first bias, and missing ranks are filled with zeros.
    """
    own = adapter.face_projector
    weight = own.reduce.weight * own.reduce.in_features**0.5
    bias, more = own.reduce.bias - weight @ own.mean, HIDDEN - len(own.reduce.bias)
    return {
        "proj.0.weight": F.pad(weight, (0, 0, 0, more)),
        "proj.0.bias": F.pad(bias, (0, more)),
        "proj.2.weight": F.pad(own.uplift.weight, (0, more)),
        "proj.2.bias": own.uplift.bias,
        "norm.weight": own.norm.weight,
        "norm.bias": own.norm.bias,
    }


def _folded(stream: StreamLayers, layer_map) -> dict[str, Tensor]:
    """Key weights, and value weights multiplied by the gate of their head."""
    gates, layers = stream.gate.table(torch.ones(layer_map.heads))[0], {}
    widths = [layer.width for layer in layer_map.layers]
    for i, gate in enumerate(gates.split(widths)):
        layers[f"{2 * i + 1}.to_k_ip.weight"] = stream.to_k[i].weight
        value = stream.to_v[i].weight
        layers[f"{2 * i + 1}.to_v_ip.weight"] = (value.float() * gate[:, None]).to(value.dtype)
    return layers


def _empty_lora(layer_map) -> dict[str, Tensor]:
    """A LoRA of zeros, of rank 1: IPAdapter_plus recognises a FaceID file by its key."""
    lora = {}
    for number in range(2 * len(layer_map.layers)):
        width = layer_map.layers[number // 2].width
        for part in ("q", "k", "v", "out"):
            reads = layer_map.context if number % 2 and part in "kv" else width
            lora[f"{number}.to_{part}_lora.down.weight"] = torch.zeros(1, reads)
            lora[f"{number}.to_{part}_lora.up.weight"] = torch.zeros(width, 1)
    return lora
