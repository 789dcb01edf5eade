"""Face tokens for a ControlNet, as the adapter's family makes them."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ....adapter.features import Features
from ....adapter.person import Person, Stream
from ....adapter.references import PER_PICTURE
from ....errors import UnsupportedModel
from ..features import Sources, features

Tokens = Callable[[Tensor], Tensor]  # text [1, T, context] of a prompt → face tokens [1 or pictures, N, context]


def face_tokens(adapter, sources: Sources) -> tuple[Tokens, Tokens]:
    """(of the faces, of nobody), nobody being a zero embedding with some noise.

    A reference's weight takes its tokens from nobody's (0) to its own (1): a ControlNet must read something in the
    text's place. Raises UnsupportedModel where the adapter's face tokens need more than an embedding; else as
    `features` does.
    """
    parts = getattr(adapter.config, "parts", None)
    family = parts["face"].family if parts and "face" in parts else None
    if "face" not in adapter.config.streams or family and family.picture:
        name = family.name if family else next(iter(parts.values())).family.name
        raise UnsupportedModel(
            f"{name} makes no tokens of a face's embedding alone, and no ControlNet was trained "
            "with its tokens. Apply this ControlNet with core's Apply ControlNet; for InstantID's, "
            "load the InstantID adapter."
        )
    shown = features(adapter, replace(sources, noise=0.0))
    face = shown.face if isinstance(shown.face, Features) else Features(shown.face)
    nobody = face.nothing()
    own = parts is None

    def person(negative: Features) -> Person:
        face_of, nobody_of = (one.embedding if own else one for one in (face, negative))
        return Person(
            adapter,
            face_of,
            settings={"face": Stream(weights=shown.weights("face"))},
            evaluate_zero=True,
            negative={"face": nobody_of},
            per_picture=sources.references == PER_PICTURE,
        )

    return _shown(person(nobody)), _empty(person(nobody.noisy(sources.noise, face) if sources.noise else nobody))


def _shown(person: Person) -> Tokens:
    @torch.no_grad()
    def of(text: Tensor) -> Tensor:
        tokens = person.tokens_for_text(text)["face"]
        weights = person.token_weights("face", tokens)
        return tokens if weights is None else person.tokens_for_text(text, True)["face"].lerp(tokens, weights)

    return of


def _empty(person: Person) -> Tokens:
    return torch.no_grad()(lambda text: person.tokens_for_text(text, True)["face"])
