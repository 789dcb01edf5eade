"""The layers that the recognisers IR-SE50 and IR-101 share: the first ones and the residual units."""

from collections.abc import Callable, Iterable

from torch import Tensor, nn

Stage = tuple[int, int, int]  # channels in and out, and number of units


def stem() -> nn.Sequential:
    """The first layers, [B, 3, H, W] → [B, 64, H, W]."""
    return nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64))


def units(stages: Iterable[Stage], unit: Callable[[int, int, int], nn.Module]) -> nn.Sequential:
    """The units of all stages. `unit` makes one of channels in and out and a stride, which is 2 at a stage's start."""
    return nn.Sequential(
        *(
            unit(into if number == 0 else out, out, 2 if number == 0 else 1)
            for into, out, count in stages
            for number in range(count)
        )
    )


class ResidualUnit(nn.Module):
    """Two convolutions, the second with the stride, beside a shortcut.

    between  layers between the first convolution and its activation
    last     layers after the second convolution's norm
    """

    def __init__(
        self, into: int, out: int, stride: int, between: Iterable[nn.Module] = (), last: Iterable[nn.Module] = ()
    ):
        super().__init__()
        self.shortcut_layer = _shortcut(into, out, stride)
        self.res_layer = nn.Sequential(
            nn.BatchNorm2d(into),
            nn.Conv2d(into, out, 3, 1, 1, bias=False),
            *between,
            nn.PReLU(out),
            nn.Conv2d(out, out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out),
            *last,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut_layer(x) + self.res_layer(x)


def _shortcut(into: int, out: int, stride: int) -> nn.Module:
    if into == out:
        return nn.MaxPool2d(1, stride)
    return nn.Sequential(nn.Conv2d(into, out, 1, stride, bias=False), nn.BatchNorm2d(out))
