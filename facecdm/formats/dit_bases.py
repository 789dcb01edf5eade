"""The DiT that a published file was made for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from ..bases import BASES
from ..bases.base import Base
from ..bases.layers import LayerMap
from ..errors import UnsupportedModel

if TYPE_CHECKING:
    from .read import Published


def dit_layer_map(published: "Published", fits: Callable[[Base], bool], needed: str) -> LayerMap:
    """The layer map of the first DiT in `BASES` that `fits`. Raises UnsupportedModel, which names what is `needed`."""
    dits = [base for base in BASES.values() if base.layer_map.is_dit]
    for base in dits:
        if fits(base):
            return base.layer_map
    known = ", ".join(base.name for base in dits)
    raise UnsupportedModel(f"{published.path.name} needs {needed}; FaceCDM knows {known}.")
