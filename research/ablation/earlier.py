"""Scores by person, in a file that runs on several machines add to (docs/results/people.csv).

A row is a person's mean over the images of one training and sampling. Means, intervals and paired differences need
nothing else, since every person counts once.
"""

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path

from facecdm.documents import read_text
from facecdm.errors import BadFile
from facecdm.evaluation.evaluate import SampleScores, by_person
from facecdm.evaluation.samples import Sample

from .scoring import Generated, reported

FIELDS = ("plan", "weights", "arm", "seed", "strength", "person")


@dataclass(frozen=True)
class Made:
    """How a condition's images were made.

    plan     digest of what decides them, except for the machine
    weights  number of weights that were trained; 0 without an adapter
    """

    plan: str
    weights: int


@dataclass(frozen=True, eq=False)
class Earlier:
    """The scores of earlier runs.

    rows       one for each person and condition
    generated  the conditions, without images
    made       by condition
    """

    rows: list[SampleScores] = field(default_factory=list)
    generated: list[Generated] = field(default_factory=list)
    made: dict[str, Made] = field(default_factory=dict)


def write(rows: list[SampleScores], generated: list[Generated], made: dict[str, Made]) -> str:
    """CSV of the reported measures by person, for all conditions."""
    names = list(dict.fromkeys(name for row in rows for name in reported(row.values)))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*FIELDS, *names])
    for one in generated:
        how = made[one.condition]
        own = [row for row in rows if row.sample.condition == one.condition]
        means = by_person(own)
        for person in dict.fromkeys(row.sample.person for row in own):
            values = [means[name].get(person) if name in means else None for name in names]
            strength = "" if one.strength is None else f"{one.strength:g}"
            written = ("" if value is None else f"{value:.6g}" for value in values)
            writer.writerow([how.plan, how.weights, one.arm, one.seed, strength, person, *written])
    return out.getvalue()


def read(path: Path) -> Earlier:
    """Read a file that `write` made. Raises BadFile."""
    found = Earlier()
    try:
        for number, line in enumerate(csv.DictReader(read_text(path).splitlines()), 2):
            plan, weights, arm, seed, strength, person = (line.pop(name) for name in FIELDS)
            one = Generated(arm, int(seed), [], float(strength) if strength else None)
            how = Made(plan, int(weights))
            if found.made.setdefault(one.condition, how) != how:
                raise ValueError(f"line {number}: {arm}, seed {seed} was made in two ways")
            if one not in found.generated:
                found.generated.append(one)
            values = {name: float(value) for name, value in line.items() if value}
            nowhere = Path()
            sample = Sample(nowhere, person, one.condition, nowhere, strength=one.strength, line=one.line)
            found.rows.append(SampleScores(sample, values))
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise BadFile(f"{path} is no file of scores that research.ablation wrote ({error})") from error
    return found
