"""Declaration of training settings: each setting declares its default, range and help text once."""

import math
from collections.abc import Iterable
from dataclasses import Field, dataclass, field, fields

from ..errors import FaceCDMError


@dataclass(frozen=True)
class Rule:
    """The meaning and the allowed values of a setting.

    help      one sentence, for tooltips and help pages
    low       smallest value; None: no limit
    high      largest value; None: no limit
    choices   the allowed values of a text setting
    """

    help: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()

    def check(self, name: str, value: object) -> None:
        """Raise FaceCDMError for a value that is not allowed."""
        if self.choices and value not in self.choices:
            raise FaceCDMError(f"{name} must be one of {', '.join(self.choices)}; got {value!r}")
        if isinstance(value, float) and not math.isfinite(value):
            raise FaceCDMError(f"{name} must be a finite number; got {value}")
        low, high = self.low, self.high
        if (low is not None and value < low) or (high is not None and value > high):
            wanted = f"at least {low:g}" if high is None else f"between {low:g} and {high:g}"
            raise FaceCDMError(f"{name} must be {wanted}; got {value}")


def setting(default, help: str, low: float | None = None, high: float | None = None, choices: tuple[str, ...] = ()):
    """The dataclass field of a setting."""
    return field(default=default, metadata={"rule": Rule(help, low, high, choices)})


def share(default: float, help: str):
    """The field of a share or probability in 0 … 1."""
    return setting(default, help, 0, 1)


def rule(of: Field) -> Rule | None:
    """The rule of a field that was made by `setting`; None for any other field."""
    return of.metadata.get("rule")


def flat(groups: Iterable[type]) -> list[tuple[str, type, Field]]:
    """The fields of all groups in order, for `make_dataclass`. Groups may share a setting with equal default and rule.

    Raises TypeError if two groups declare the same name differently.
    """
    found: dict[str, tuple[str, type, Field]] = {}
    for group in groups:
        for one in fields(group):
            known = found.setdefault(one.name, (one.name, one.type, one))[2]
            if (known.default, known.metadata) != (one.default, one.metadata):
                raise TypeError(f"{group.__name__}: another group declares {one.name} differently")
    return [(name, kind, field(default=one.default, metadata=one.metadata)) for name, kind, one in found.values()]
