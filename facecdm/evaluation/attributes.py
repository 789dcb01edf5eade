"""Adherence to the attributes of a prompt: which of them a picture shows."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

ALL, CONFLICT = "adherence", ", conflict"
EXAMPLE = "expression: laughing / neutral; hair: long red / short black"


@dataclass(frozen=True)
class Attribute:
    """One attribute that a prompt asks for.

    name       such as "expression"
    asked      the value in the prompt
    reference  the value in the reference photo; "" if unknown
    """

    name: str
    asked: str
    reference: str = ""

    @property
    def conflicts(self) -> bool:
        """Whether the prompt contradicts the reference."""
        return bool(self.reference) and self.asked != self.reference


class AttributeJudge(Protocol):
    def read(self, picture: np.ndarray, keypoints: np.ndarray | None) -> dict[str, str]:
        """The value of each attribute that an RGB picture shows, uint8 [H, W, 3]; key points [5, 2] of its face."""


def parse(text: str) -> tuple[Attribute, ...]:
    """Read "name: asked / reference; …"; the reference's value may be left out. Raises ValueError."""
    found = []
    for part in filter(None, (part.strip() for part in text.split(";"))):
        name, _, values = (piece.strip() for piece in part.partition(":"))
        asked, _, reference = (piece.strip() for piece in values.partition("/"))
        if not (name and asked):
            raise ValueError(f"attributes: {part[:60]!r} has no name or no value; write, for example, {EXAMPLE!r}")
        found.append(Attribute(name, asked, reference))
    if len({one.name for one in found}) < len(found):
        raise ValueError(f"attributes: a name occurs twice in {text[:60]!r}")
    return tuple(found)


def values_of(texts: list[str]) -> dict[str, list[str]]:
    """Each attribute's values in the texts, asked or of a reference, sorted."""
    known: dict[str, set[str]] = {}
    for one in (one for text in texts for one in parse(text)):
        known.setdefault(one.name, set()).update(filter(None, (one.asked, one.reference)))
    return {name: sorted(values) for name, values in known.items()}


def adherence(attributes: tuple[Attribute, ...], shown: dict[str, str]) -> dict[str, float]:
    """Measures in 0…1: the share of all attributes and of those in conflict with the reference, and each of them.

    shown  the value that the picture shows; an attribute that is absent counts as not followed
    """
    values: dict[str, float] = {}
    for suffix, chosen in (("", attributes), (CONFLICT, tuple(one for one in attributes if one.conflicts))):
        right = {one.name: float(shown.get(one.name) == one.asked) for one in chosen}
        if right:
            values[ALL + suffix] = float(np.mean(list(right.values())))
        values |= {f"{ALL}: {name}{suffix}": value for name, value in right.items()}
    return values
