"""Inputs of the nodes, written in one line each."""

from collections.abc import Sequence

from comfy_api.latest import io


def number(name: str, default: float, low: float, high: float, step: float, tooltip: str, **more) -> io.Input:
    return io.Float.Input(name, default=default, min=low, max=high, step=step, tooltip=tooltip, **more)


def integer(name: str, default: int, low: int, high: int, tooltip: str, **more) -> io.Input:
    return io.Int.Input(name, default=default, min=low, max=high, tooltip=tooltip, **more)


def choice(name: str, options: Sequence[str], default: str, tooltip: str, **more) -> io.Input:
    return io.Combo.Input(name, options=list(options), default=default, tooltip=tooltip, **more)


def strength(name: str, default: float, tooltip: str, **more) -> io.Input:
    """A stream's strength, in -2…4."""
    return number(name, default, -2.0, 4.0, 0.05, tooltip, **more)


def fraction(name: str, default: float, tooltip: str, step: float = 0.05, **more) -> io.Input:
    """A number in 0…1."""
    return number(name, default, 0.0, 1.0, step, tooltip, **more)


def switch(name: str, default: bool, tooltip: str, **more) -> io.Input:
    return io.Boolean.Input(name, default=default, tooltip=tooltip, **more)


def optional(socket, name: str, tooltip: str) -> io.Input:
    """An optional input for a link, of a socket type such as io.Image or FACES."""
    return socket.Input(name, optional=True, tooltip=tooltip)
