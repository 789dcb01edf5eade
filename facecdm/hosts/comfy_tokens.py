"""Face tokens for a ControlNet, as the adapter's family makes them."""

from collections.abc import Callable

import torch
from torch import Tensor

from ..adapter.features import Features
from ..errors import UnsupportedModel
from ..faces.value import Faces
from .comfy_features import Sources, features

Tokens = Callable[[Tensor], Tensor]  # text [1, T, context] of a prompt → face tokens [1, N, context]


def face_tokens(adapter, faces: Faces, references: str, noise: float) -> tuple[Tokens, Tokens]:
    """(of the faces, of nobody), nobody being a zero embedding with some `noise`.

    Raises UnsupportedModel where the adapter's face tokens need more than an embedding; else as `features` does.
    """
    parts = getattr(adapter.config, "parts", None)
    family = parts["face"].family if parts and "face" in parts else None
    if "face" not in adapter.config.streams or family and family.picture:
        name = family.name if family else next(iter(parts.values())).family.name
        raise UnsupportedModel(f"{name} makes no tokens of a face's embedding alone, and no ControlNet was trained "
                               "with its tokens. Apply this ControlNet with core's Apply ControlNet; for InstantID's, "
                               "load the InstantID adapter.")
    shown = _as_features(features(adapter, Sources(faces, references=references)).face)
    nobody = shown.nothing()
    if noise:
        nobody = nobody.noisy(noise, shown)
    return _tokens_of(adapter, shown, parts is None), _tokens_of(adapter, nobody, parts is None)


def _as_features(face: Tensor | Features) -> Features:
    return face if isinstance(face, Features) else Features(face)


def _tokens_of(adapter, face: Features, own: bool) -> Tokens:
    with torch.no_grad():
        tokens = adapter.project(face.embedding if own else face, None)["face"].flatten(0, 1)[None]

    def of(text: Tensor) -> Tensor:
        with torch.no_grad():
            return adapter.meet({"face": tokens}, text[:1].to(tokens))["face"] if adapter.text_matters else tokens

    return of
