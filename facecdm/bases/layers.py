"""The layers of a base model that adapters act on, in one order for every host and every weight format.

In a U-Net these are its cross-attention layers; in a DiT these are its blocks.
"""

from dataclasses import dataclass
from itertools import groupby

MOST_LAYERS, MOST_HEADS = 1000, 1000  # limits for a file; SDXL has 70 layers of up to 20 heads
UNET, DIT = ("input", "middle", "output"), ("double", "single")  # parts, in the order of computation


@dataclass(frozen=True)
class Layer:
    """One cross-attention layer of a U-Net, or one block of a DiT.

    part   of the base model: input, output or middle (U-Net); double or single (DiT)
    width  features of a query (U-Net) or of the hidden state (DiT)
    heads  attention heads
    """

    part: str
    width: int
    heads: int


@dataclass(frozen=True)
class LayerMap:
    """The layers of one base model.

    layers   U-Net: in IP-Adapter's order, that is input blocks, output blocks, middle block; DiT: in the order of
             computation
    context  features of a text token
    """

    layers: tuple[Layer, ...]
    context: int

    @classmethod
    def of_runs(cls, context: int, *runs: tuple[str, int, int, int]) -> "LayerMap":
        """Build from runs of equal layers: (part, width, heads, count)."""
        return cls(
            tuple(Layer(part, width, heads) for part, width, heads, count in runs for _ in range(count)), context
        )

    @property
    def width(self) -> int:
        """Σ of the layers' widths."""
        return sum(layer.width for layer in self.layers)

    @property
    def heads(self) -> int:
        """Σ of the layers' heads."""
        return sum(layer.heads for layer in self.layers)

    @property
    def is_dit(self) -> bool:
        return self.layers[0].part in DIT

    @property
    def by_depth(self) -> list[int]:
        """Indices of the layers in the order of computation: input, middle, output; double, single."""
        order = (*UNET, *DIT)
        return sorted(range(len(self.layers)), key=lambda i: order.index(self.layers[i].part))

    def to_json(self) -> dict:
        """Run-length form: {"context": 768, "layers": [["input", 320, 8, 2], …]}; the last number is the count."""
        runs = [[layer.part, layer.width, layer.heads, len(list(group))] for layer, group in groupby(self.layers)]
        return {"context": self.context, "layers": runs}

    @classmethod
    def from_json(cls, value: dict) -> "LayerMap":
        """Read the run-length form.

        Raises ValueError for impossible or too many layers before building any; KeyError, TypeError.
        """
        if sum(abs(run[3]) for run in value["layers"]) > MOST_LAYERS:
            raise ValueError(f"it declares more than {MOST_LAYERS} layers")
        for part, width, heads, count in value["layers"]:
            if part not in (*UNET, *DIT) or not 0 < heads <= MOST_HEADS or width % heads or count < 1:
                raise ValueError(f"it declares {count} layers of part {part!r:.20}, width {width} and {heads} heads")
        parts = {run[0] for run in value["layers"]}
        if not parts or parts & set(UNET) and parts & set(DIT):
            raise ValueError("it declares no layers, or layers of a U-Net and of a DiT")
        return cls.of_runs(value["context"], *(tuple(run) for run in value["layers"]))
