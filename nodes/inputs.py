"""Inputs that several nodes have."""

from comfy_api.latest import io


def strength(name: str, default: float, tooltip: str, **more) -> io.Input:
    """A stream's strength, in -2…4."""
    return io.Float.Input(name, default=default, min=-2.0, max=4.0, step=0.05, tooltip=tooltip, **more)


def share(name: str, default: float, tooltip: str, step: float = 0.05, **more) -> io.Input:
    """A number in 0…1."""
    return io.Float.Input(name, default=default, min=0.0, max=1.0, step=step, tooltip=tooltip, **more)
