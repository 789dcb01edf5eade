"""Which cross-attention layers a base model has, in one order that every host and every weight format shares."""

from dataclasses import dataclass
from itertools import groupby


@dataclass(frozen=True)
class Layer:
    """One cross-attention layer: the U-Net `part` it stands in, its `width` in features, and its `heads`."""

    part: str  # input, output or middle
    width: int
    heads: int


@dataclass(frozen=True)
class LayerMap:
    """The cross-attention layers of a U-Net, in IP-Adapter's order: input blocks, output blocks, middle block."""

    layers: tuple[Layer, ...]
    context: int  # features of a text token

    @property
    def width(self) -> int:
        """Σ of the layers' widths."""
        return sum(layer.width for layer in self.layers)

    @property
    def heads(self) -> int:
        """Σ of the layers' heads."""
        return sum(layer.heads for layer in self.layers)

    @property
    def by_depth(self) -> list[int]:
        """Indices of the layers in the order in which a picture passes them: input, middle, output."""
        order = {"input": 0, "middle": 1, "output": 2}
        return sorted(range(len(self.layers)), key=lambda i: order[self.layers[i].part])

    @property
    def base(self) -> str:
        """The base model's name: one of `BASES`, else a description of its shape."""
        for name, layer_map in BASES.items():
            if layer_map == self:
                return name
        return f"U-Net of {len(self.layers)} cross-attention layers, text width {self.context}"

    def to_json(self) -> dict:
        """Run-length form: {"context": 768, "layers": [["input", 320, 8, 2], …]}, the last number being how many."""
        runs = [[layer.part, layer.width, layer.heads, len(list(group))] for layer, group in groupby(self.layers)]
        return {"context": self.context, "layers": runs}

    @classmethod
    def from_json(cls, value: dict) -> "LayerMap":
        return _map(value["context"], *(tuple(run) for run in value["layers"]))


def _map(context: int, *runs: tuple[str, int, int, int]) -> LayerMap:
    return LayerMap(
        tuple(Layer(part, width, heads) for part, width, heads, count in runs for _ in range(count)), context
    )


BASES = {
    "SD1.5": _map(
        768,
        ("input", 320, 8, 2),
        ("input", 640, 8, 2),
        ("input", 1280, 8, 2),
        ("output", 1280, 8, 3),
        ("output", 640, 8, 3),
        ("output", 320, 8, 3),
        ("middle", 1280, 8, 1),
    ),
    "SD2": _map(
        1024,
        ("input", 320, 5, 2),
        ("input", 640, 10, 2),
        ("input", 1280, 20, 2),
        ("output", 1280, 20, 3),
        ("output", 640, 10, 3),
        ("output", 320, 5, 3),
        ("middle", 1280, 20, 1),
    ),
    "SDXL": _map(
        2048,
        ("input", 640, 10, 4),
        ("input", 1280, 20, 20),
        ("output", 1280, 20, 30),
        ("output", 640, 10, 6),
        ("middle", 1280, 20, 10),
    ),
    "FaceCDM demo": _map(192, ("input", 128, 2, 2), ("output", 128, 2, 4), ("middle", 256, 4, 1)),
}
