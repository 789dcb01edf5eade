"""Recognise the family and the base model of a published file."""

import json
import re

from ..bases import name_of
from ..errors import BadFile, FaceCDMError, UnsupportedModel
from .families import FAMILIES
from .families.refused import REFUSED
from .family import Family
from .read import Published, incomplete
from .recognised import Recognised
from .unet_layers import lora_rank

AUTO = "auto"
FORMAT_KEY = "facecdm.family"  # in the metadata of files that we write


def recognise(published: Published, choice: str = AUTO) -> Recognised:
    """Recognise a file by its content; if several families share it, by `choice`, else by metadata, else by file name.

    Raises BadFile (no known projector, or an incomplete one), FaceCDMError (an impossible choice), UnsupportedModel (a
    refused family, an unknown base model).
    """
    state = published.image_proj
    options = _candidates(published)
    with incomplete(published.path):
        layers = options[0].layers.layer_map(published)
        family, why = _choose(published, options, name_of(layers), choice)
        sizes = family.projector.sizes(state)
        return Recognised(family, layers, why, sizes, lora_rank(published.ip_adapter), published.path)


def _candidates(published: Published) -> list[Family]:
    """The families with the rule and layers of the first family that matches the file."""
    state = published.image_proj
    for refused in REFUSED:
        if refused.rule.matches(state):
            raise UnsupportedModel(f"{published.path.name} is {refused.name}. {refused.reason}")
    with incomplete(published.path):
        first = next((family for family in FAMILIES.values() if family.matches(published)), None)
    if first is None:
        keys = ", ".join(sorted(state)[:4])
        raise BadFile(f"{published.path}: its projector is not of a known family (image_proj: {keys[:200]} …).")
    return [family for family in FAMILIES.values() if (family.rule, family.layers) == (first.rule, first.layers)]


def _choose(published: Published, options: list[Family], base: str, choice: str) -> tuple[Family, str]:
    """The family, and the evidence for it in words."""
    by_key = {family.key: family for family in options}
    if choice != AUTO:
        if choice not in by_key:
            fits = " or ".join(family.name for family in options)
            raise FaceCDMError(f"family is {choice!r}, but {published.path.name} holds {fits}: set family to {AUTO}")
        return by_key[choice], "your choice"
    if len(options) == 1:
        return options[0], "its content"
    declared = by_key.get(published.metadata.get(FORMAT_KEY, ""))
    if declared:
        return declared, "its metadata"
    published_for = [family for family in options if base in family.files]
    if len(published_for) == 1:
        others = " or ".join(family.name for family in options if family is not published_for[0])
        return published_for[0], f"its content (there is no {others} for {base})"
    return _by_name(published, options) or (options[0], _doubt(options))


def _by_name(published: Published, options: list[Family]) -> tuple[Family, str] | None:
    """Choose by whole words of the metadata, of the file's name, then of the folder's name. The default is tried last,
    since other families' names may contain its name.
    """
    path = published.path
    texts = {"metadata": json.dumps(published.metadata), "name": path.name, "folder's name": path.parent.name}
    for where, text in texts.items():
        words = "-".join(["", *re.findall("[a-z0-9]+", text.lower()), ""])
        for family in (*options[1:], options[0]):
            part = next((part for part in family.name_parts if f"-{part}-" in words), "")
            if part:
                return family, "its metadata" if where == "metadata" else f"{part!r} in its {where}"
    return None


def _doubt(options: list[Family]) -> str:
    others = " or ".join(family.name for family in options[1:])
    return f"its content; it may also be {others}: if so, choose that as family"
