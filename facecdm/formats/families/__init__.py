"""The published families, one file each. A new family is a new file and a line here.

The order matters twice. A file belongs to the first rule that it matches, so special rules come before general ones.
Among the families with that rule, the first is the default.
"""

from ..family import Family
from . import (
    consistentid,
    faceid,
    faceid_plus,
    full_face,
    infiniteyou,
    instantid,
    instantx,
    instantx_sd35,
    ip_adapter,
    ip_adapter_plus,
    kolors,
    portrait,
    pulid,
    uniportrait,
    withanyone,
    xlabs,
)

_ORDER = (
    xlabs.V1,
    xlabs.V2,
    instantx.FAMILY,
    instantx_sd35.FAMILY,
    infiniteyou.FAMILY,
    ip_adapter.FAMILY,
    ip_adapter.LIGHT,
    full_face.FAMILY,
    consistentid.FAMILY,
    faceid_plus.FAMILY,
    faceid_plus.V2,
    portrait.FAMILY,
    faceid.FAMILY,
    uniportrait.FAMILY,
    instantid.FAMILY,
    portrait.UNNORM,
    kolors.FAMILY,
    ip_adapter_plus.FAMILY,
    ip_adapter_plus.FACE,
    ip_adapter_plus.COMPOSITION,
    pulid.FAMILY,
    pulid.V1_1,
    pulid.FLUX,
    withanyone.FAMILY,
    withanyone.SIGLIP,
)
FAMILIES: dict[str, Family] = {family.key: family for family in _ORDER}


def file_for(key: str, base: str) -> str:
    """The published file of a family for a base model; "" if there is none.

    A family without a file for the base model is replaced by its substitute, repeatedly.
    """
    tried: set[str] = set()
    while key and key not in tried:
        if base in FAMILIES[key].files:
            return FAMILIES[key].files[base]
        tried.add(key)
        key = FAMILIES[key].substitute
    return ""
