"""Face tokens for a ControlNet, as the adapter's family makes them."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from ..adapter.features import Features
from ..adapter.person import Person, Stream
from ..adapter.references import PER_PICTURE
from ..errors import UnsupportedModel
from .family import Family
from .features import features
from .negative import check_noise
from .sources import Sources

Tokens = Callable[[Tensor], Tensor]  # text [1, T, context] of a prompt → face tokens [1 or pictures, N, context]


def face_tokens(adapter, sources: Sources) -> tuple[Tokens, Tokens]:
    """Tokens of the faces, and of an empty face: a zero embedding, with noise if `sources` sets it.

    A reference's weight interpolates between the empty face's tokens (0) and its own (1), since a ControlNet
    always needs tokens in place of the text. InfiniteYou's ControlNet reads the faces with the negative prompt, too.

    Raises UnsupportedModel if the adapter's face tokens need more than an embedding, and the errors of `features`.
    """
    parts = getattr(adapter.config, "parts", None)
    family = parts["face"].family if parts and "face" in parts else None
    if "face" not in adapter.config.streams or family and not _embedding_alone(family):
        name = family.name if family else next(iter(parts.values())).family.name
        raise UnsupportedModel(
            f"{name} makes no tokens from a face's embedding alone, and no ControlNet was trained "
            "with its tokens. Apply this ControlNet with core's Apply ControlNet; for InstantID's, "
            "load the InstantID adapter, and for InfuseNet InfiniteYou's."
        )
    in_negative = family is None or family.recipe.empty
    if sources.noise and not in_negative:
        check_noise(parts, sources.noise)
    prepared = features(adapter, replace(sources, noise=0.0))
    face = prepared.face if isinstance(prepared.face, Features) else Features(prepared.face)
    empty = face.empty()
    own = parts is None

    def person(negative: Features) -> Person:
        positive, negative = (one.embedding if own else one for one in (face, negative))
        return Person(
            adapter,
            positive,
            settings={"face": Stream(weights=prepared.weights("face"))},
            evaluate_zero=True,
            negative={"face": negative},
            per_picture=sources.references == PER_PICTURE,
        )

    if not in_negative:
        return (_shown(person(empty)),) * 2
    return _shown(person(empty)), _empty(person(empty.with_noise(sources.noise, face) if sources.noise else empty))


def _embedding_alone(family: Family) -> bool:
    """Whether the tokens are of an embedding alone, and a ControlNet may have been trained with them."""
    return not family.recipe.picture and family.layers.for_controlnets


def _shown(person: Person) -> Tokens:
    @torch.no_grad()
    def of(text: Tensor) -> Tensor:
        tokens = person.tokens_for_text(text)["face"]
        weights = person.token_weights("face", tokens)
        return tokens if weights is None else person.tokens_for_text(text, True)["face"].lerp(tokens, weights)

    return of


def _empty(person: Person) -> Tokens:
    return torch.no_grad()(lambda text: person.tokens_for_text(text, True)["face"])
