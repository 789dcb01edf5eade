"""Scores by person, in a file that runs on several machines add to (docs/results/people.csv).

A row has a person's means over the images of one training and sampling (scoring.person_means). Means, intervals and
paired differences need nothing else.
"""

import csv
import io
import math
from dataclasses import dataclass, field
from pathlib import Path

from facecdm.documents import read_text
from facecdm.errors import BadFile
from facecdm.evaluation.evaluate import SampleScores
from facecdm.evaluation.samples import Sample

from .scoring import Generated

FIELDS = ("fingerprint", "weights", "arm", "seed", "strength", "person")
_NO_FILE = Path()


@dataclass(frozen=True, eq=False)
class Earlier:
    """The scores of earlier runs.

    rows       one for each person and condition
    generated  the conditions, without images
    """

    rows: list[SampleScores] = field(default_factory=list)
    generated: list[Generated] = field(default_factory=list)


def write(rows: list[SampleScores], generated: list[Generated]) -> str:
    """CSV of the measures by person; `rows` are those of scoring.person_means."""
    names = list(dict.fromkeys(name for row in rows for name in row.values))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*FIELDS, *names])
    for one in generated:
        strength = "" if one.strength is None else f"{one.strength:g}"
        condition = [one.fingerprint, one.weights, one.arm, one.seed, strength]
        for row in (row for row in rows if row.sample.condition == one.condition):
            values = (f"{row.values[name]:.6g}" if name in row.values else "" for name in names)
            writer.writerow([*condition, row.sample.person, *values])
    return out.getvalue()


def read(path: Path) -> Earlier:
    """Read a file that `write` made. Raises BadFile."""
    try:
        table = csv.DictReader(read_text(path).splitlines())
        if tuple(table.fieldnames or ())[: len(FIELDS)] != FIELDS:
            raise ValueError(f"its first columns are not {', '.join(FIELDS)}")
        found, seen = Earlier(), set()
        for number, line in enumerate(table, 2):
            fingerprint, weights, arm, seed, strength, person = (line.pop(name) for name in FIELDS)
            one = Generated(arm, int(seed), [], float(strength) if strength else None, int(weights), fingerprint)
            if (one.condition, person) in seen:
                raise ValueError(f"line {number} repeats {person} of {arm}, seed {seed}")
            seen.add((one.condition, person))
            if one not in found.generated:
                found.generated.append(one)
            values = {name: float(value) for name, value in line.items() if value}
            if not all(map(math.isfinite, values.values())):
                raise ValueError(f"line {number} has a value that is not finite")
            sample = Sample(_NO_FILE, person, one.condition, _NO_FILE, strength=one.strength, line=one.line)
            found.rows.append(SampleScores(sample, values))
        if not found.rows:
            raise ValueError("it has no rows")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise BadFile(f"{path} is not a file of scores by research.ablation: {error}") from error
    return found
