"""Published adapters as triplet adapters: interplay off, gates 1, κ of the family."""

from dataclasses import dataclass
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..adapter.features import Features
from ..adapter.model import TripletAdapter
from ..adapter.native import is_native, load_adapter
from ..adapter.stream_module import StreamModule
from ..bases import name_of
from ..bases.layers import LayerMap
from ..errors import Mismatch
from .families import FAMILIES, file_for
from .family import Family
from .read import Published, incomplete, read, separate
from .recognise import AUTO, recognise
from .recognised import Recognised
from .unet_layers import lora_of


@dataclass(frozen=True)
class ImportedConfig:
    """The configuration of an imported adapter, with the fields that nodes and hosts read from any adapter.

    layer_map   the base model's layers (bases/layers.py)
    parts       the recognised file of each stream
    recogniser  empty: each family names its own
    """

    layer_map: LayerMap
    parts: dict[str, Recognised]
    recogniser: str = ""

    @property
    def streams(self) -> tuple[str, ...]:
        return tuple(self.parts)

    def counterpart(self, base: str) -> str:
        """Files of the same families for another base model, in words; "" if there are none."""
        names = [file_for(part.family.key, base) for part in self.parts.values()]
        return " and ".join(name for name in names if name)

    @property
    def face_width(self) -> int:
        return self.parts["face"].sizes.face_width if "face" in self.parts else 0

    @property
    def image_width(self) -> int:
        return self.parts["image"].sizes.vision_width if "image" in self.parts else 0


class ImportedAdapter(nn.Module):
    """One or two published adapters with the interface of a TripletAdapter, so that the same code runs them.

    `loras` are the LoRAs in the files, by stream, under the names of the file's attention processors. They belong to
    the base model and are not run here.
    """

    depends_on_text = False

    def __init__(
        self,
        config: ImportedConfig,
        projectors: dict[str, nn.Module],
        layers: dict[str, StreamModule],
        loras: dict[str, dict[str, Tensor]],
    ):
        super().__init__()
        self.config = config
        self.projectors = nn.ModuleDict(projectors)
        self.streams = nn.ModuleDict(layers)
        self.loras = loras
        self._cache: WeakKeyDictionary = WeakKeyDictionary()  # tokens by features, kept for later samplings

    def project(self, face: Features | None, image: Features | None) -> dict[str, Tensor]:
        """Features → tokens [R, N, context], float32, by stream. Streams without features or weights are absent."""
        given = {"face": face, "image": image}
        return {name: self._tokens(name, given[name]) for name in self.projectors if given[name] is not None}

    def _tokens(self, name: str, features: Features) -> Tensor:
        cached = self._cache.setdefault(features, {})
        if name not in cached:
            cached[name] = self.projectors[name](features)
        return cached[name]

    def apply_interplay(self, tokens: dict[str, Tensor], text: Tensor) -> dict[str, Tensor]:
        return tokens


def load_any(path: Path, choice: str = AUTO) -> TripletAdapter | ImportedAdapter:
    """Load an own or a published adapter. Raises BadFile, UnsupportedModel, FaceCDMError (impossible `choice`)."""
    return load_adapter(path) if is_native(path) else import_adapter(read(path), choice)


def import_adapter(published: Published, choice: str = AUTO) -> ImportedAdapter:
    """An adapter that shares its layers' tensors with `published`, in the dtype of the file.

    Raises as `recognise` does; BadFile for an incomplete projector or LoRA.
    """
    parts = separate(published)
    if len(parts) == 1:
        return _import_stream(published, choice)
    one_of_file = choice in FAMILIES and bool(FAMILIES[choice].part)  # the other stream's family differs
    one, other = (_import_stream(part, AUTO if one_of_file else choice) for part in parts)
    return combine(one, other)


def _import_stream(published: Published, choice: str) -> ImportedAdapter:
    found = recognise(published, choice)
    stream, kappa = found.family.stream, found.family.kappa
    projector = _projector(found.family, published)
    with incomplete(published.path):
        layers = found.family.layers.stream(published, found.layer_map, kappa)
    lora = lora_of(published, found.layer_map)
    config = ImportedConfig(found.layer_map, {stream: found})
    adapter = ImportedAdapter(config, {stream: projector}, {stream: layers}, {stream: lora} if found.lora else {})
    return adapter.requires_grad_(False).eval()


def combine(one: nn.Module, other: nn.Module) -> ImportedAdapter:
    """Combine the face stream of one adapter and the image stream of the other into one adapter.

    Raises Mismatch for different base models, the same stream twice, or one of FaceCDM's own adapters.
    """
    for adapter in (one, other):
        if not isinstance(adapter, ImportedAdapter):
            raise Mismatch(
                "one of the adapters is FaceCDM's own, whose streams were trained together: apply it and "
                "the other one with an Apply FaceCDM each, one after the other"
            )
    a, b = one.config, other.config
    if a.layer_map != b.layer_map:
        raise Mismatch(
            f"one adapter was made for {name_of(a.layer_map)}, the other for {name_of(b.layer_map)}: "
            "load two for the same base"
        )
    twice = set(a.parts) & set(b.parts)
    if twice:
        stream = sorted(twice)[0]
        raise Mismatch(
            f"both adapters have {'a face' if stream == 'face' else 'an image'} stream "
            f"({a.parts[stream].family.name} and {b.parts[stream].family.name}): apply them with an Apply "
            "FaceCDM each, one after the other"
        )
    return (
        ImportedAdapter(
            ImportedConfig(a.layer_map, {**a.parts, **b.parts}, a.recogniser or b.recogniser),
            {**one.projectors, **other.projectors},
            {**one.streams, **other.streams},
            {**one.loras, **other.loras},
        )
        .requires_grad_(False)
        .eval()
    )


def _projector(family: Family, published: Published) -> nn.Module:
    """The projector with the file's weights in float32: it runs once per reference, on any device.

    A projector without weights leaves them to the layers, which make tokens at every step (formats/joint_layers.py).
    """
    state = {key: value for key, value in published.image_proj.items() if not key.startswith(family.ignored)}
    with incomplete(published.path):
        with torch.device("meta"):
            projector = family.projector.of(state)
        if projector.state_dict():
            projector.load_state_dict({key: value.float() for key, value in state.items()}, assign=True)
    return projector
