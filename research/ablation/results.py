"""What the ablation writes: one table in Markdown, CSV files, the curve over the strength, a sheet, JSON."""

import io
import json
from collections import Counter
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from facecdm.evaluation import report
from facecdm.evaluation.attributes import ALL as ADHERENCE
from facecdm.evaluation.attributes import CONFLICT
from facecdm.evaluation.evaluate import Evaluation, SampleScores, Summary
from facecdm.files import write_atomically

from . import earlier
from .arms import NOT_REQUESTED, TRIPLET, arm
from .chance import Chance
from .people import EvaluationSet
from .scoring import Generated, Scorer

MARKS = ("<!-- ablation: begin -->", "<!-- ablation: end -->")
TILE, BAND, SHEET_ROWS = 128, 14, 12


@dataclass(frozen=True, eq=False)
class Results:
    """The results so far.

    rows       scores by person (scoring.person_means)
    generated  the images by arm and training
    facts      of the trainings: weights, stages, losses
    settings   the command's options
    wanted     number of conditions of all arms
    left_out   arms that were not run, and why
    real       scores of the real pictures that the prompts describe
    """

    scorer: Scorer
    rows: list[SampleScores]
    generated: list[Generated]
    facts: list[dict]
    settings: dict
    wanted: int
    left_out: dict[str, str] = field(default_factory=dict)
    real: list[SampleScores] = field(default_factory=list)

    def write(self, out: Path) -> Path:
        """Write everything into `out`. Returns the Markdown's path."""
        out.mkdir(parents=True, exist_ok=True)
        (out / "tables").mkdir(exist_ok=True)
        for name, text in self.tables().items():
            write_atomically(out / "tables" / name, text.encode())
        write_atomically(out / "results.json", json.dumps(self.as_json(), indent=1, default=str).encode())
        if self._curve:
            write_atomically(out / "strength.png", self._curve)
        if self._on_sheet:
            write_atomically(out / "sheet.jpg", sheet(self.scorer.evaluation_set, self._on_sheet))
        write_atomically(out / "results.md", self.markdown().encode())
        return out / "results.md"

    def as_json(self) -> dict:
        tables = {name: _as_json(evaluation) for name, evaluation in self._evaluations.items()}
        return {
            "settings": self.settings,
            "complete": self._complete,
            "left out": self.left_out,
            "trainings": [{name: fact[name] for name in fact if name != "seconds a picture"} for fact in self.facts],
            **tables,
            "seeds": {name: values for one in self._seeds for name, values in _as_json(one).items()},
        }

    @cached_property
    def _seeds(self) -> list[Evaluation]:
        return self.scorer.of_seeds(self.rows, self.generated)

    @cached_property
    def _chance(self) -> Chance:
        trainings = Counter(one.arm for one in self.generated if one.strength is None and one.weights)
        return Chance.of(self._seeds, trainings)

    @cached_property
    def _evaluations(self) -> dict[str, Evaluation]:
        return {
            "arms": self.scorer.of_arms(self.rows, self.generated),
            "against the triplet": self.scorer.of_triplet(self.rows, self.generated),
            "strengths": self.scorer.of_strengths(self.rows, self.generated),
        }

    @cached_property
    def _real(self) -> Evaluation:
        return self.scorer.of_real(self.real)

    @cached_property
    def _curve(self) -> bytes | None:
        """PNG of identity similarity against prompt adherence; None for fewer than two strengths."""
        strengths = self._evaluations["strengths"]
        return report.draw(strengths).get("strength") if len(strengths.summaries) > 1 else None

    @property
    def _on_sheet(self) -> list[Generated]:
        """What the sheet shows: the arms whose images are in OUT, if the triplet is one of them."""
        here = [one for one in self.generated if one.paths and one.strength is None]
        return here if any(one.arm == TRIPLET for one in here) else []

    @property
    def _complete(self) -> bool:
        return len(self.generated) == self.wanted and not self.left_out

    def markdown(self) -> str:
        """The part of docs/results.md: one table. The sheet is beside it; `tables` has everything else."""
        names = list(dict.fromkeys(one.arm for one in self.generated))
        parts = [
            self._scale(),
            overview_table(self._evaluations["arms"], self._evaluations["against the triplet"], self._chance),
            self._legend(),
            "\n".join(f"- *{name}*: {arm(name).description}" for name in names),
            self._curve and "![Identity similarity against prompt adherence over the strength](strength.png)",
            self._of_real(),
            self._on_sheet and "![Same prompts, same noise, arms side by side](sheet.jpg)",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def tables(self) -> dict[str, str]:
        """CSV by file name: every measure of every condition, with 95 % intervals."""
        evaluations = {
            "arms": [self._evaluations["arms"]],
            "against_triplet": [self._evaluations["against the triplet"]],
            "trainings": self._seeds,
            "strengths": [self._evaluations["strengths"]],
            "pose": self.scorer.of_poses(self.rows, self.generated),
            "real_pictures": [self._real],
        }
        found = {
            name: _joined([report.summary_csv(one) for one in some])
            for name, some in evaluations.items()
            if any(one.summaries for one in some)
        }
        found["people"] = earlier.write(self.rows, self.generated)
        return {f"{name}.csv": text for name, text in found.items()}

    def _legend(self) -> str:
        """What the table's mark means."""
        over_people = f"the paired difference to *{TRIPLET}* is significant (95 %) over people"
        limits = self._chance.limits(1)
        if not limits:
            return (
                rf"\{DIFFERS}: {over_people}. Differences between trainings of one arm are not part of the intervals."
            )
        shown = columns_of(self._evaluations["arms"])
        named = [f"{COLUMNS[key][0]} {COLUMNS[key][1].format(limits[key])}" for key in shown if key in limits]
        return (
            rf"\{DIFFERS}: {over_people}, and larger than trainings of one arm differ by chance. One training differs "
            f"from the triplet's mean by chance by less than: {', '.join(named)} (95 %; Student's t with the variance "
            "between trainings of one arm, pooled over arms). The intervals do not include this."
        )

    def _of_real(self) -> str:
        means = {name: value[0] for one in self._real.summaries for name, value in one.values.items()}
        if ADHERENCE not in means:
            return ""
        name = ADHERENCE + CONFLICT if ADHERENCE + CONFLICT in means else ADHERENCE
        return (
            f"The same measures of the real pictures that the prompts describe: {COLUMNS[name][0]} {means[name]:.1%}, "
            f"sharpness {means.get('sharpness', 0):.0f}."
        )

    def _scale(self) -> str:
        """How much was done: people, prompts, steps, weights, and what is missing."""
        people, images = len(self.scorer.evaluation_set.names), len(self.scorer.evaluation_set.requests)
        count = len(self.generated)
        done = "" if self._complete else f"**Partial**: {count} of {self.wanted} sets of images. "
        lines = [f"{done}{people} people × {images // people} prompts."]
        if self.facts:
            steps = {fact["arm"]: self._steps(fact) for fact in self.facts}
            weights = {fact["arm"]: f"{fact['weights'] / 1e6:.1f}" for fact in self.facts}
            lines.append(f"Steps × batch: {with_exceptions(steps)}.")
            lines.append(f"Millions of trained weights: {with_exceptions(weights)}.")
        counts = Counter(fact["arm"] for fact in self.facts)
        several = [f"*{name}* {count}" for name, count in counts.items() if count > 1]
        if several:
            lines.append(f"Trainings: {', '.join(several)}, others one.")
        elif counts:
            lines.append("One training of each arm.")
        lines += [f"Left out: *{name}* ({why})." for name, why in self.left_out.items() if why != NOT_REQUESTED]
        if missing := [f"*{name}*" for name, why in self.left_out.items() if why == NOT_REQUESTED]:
            lines.append(f"Not run: {', '.join(missing)}.")
        return " ".join(lines)

    def _steps(self, fact: dict) -> str:
        stages = ", ".join(f"{stage['name']} {stage['steps']} × {stage['batch']}" for stage in fact["stages"])
        return f"{stages} (given: {fact['file']})" if "file" in fact else stages


def _as_json(evaluation: Evaluation) -> dict[str, dict]:
    return {
        summary.condition: {
            "people": summary.people,
            "means": summary.values,
            "differences": summary.against_first,
        }
        for summary in evaluation.summaries
    }


def with_exceptions(values: dict[str, str]) -> str:
    """The value that most arms have, then the other arms with theirs."""
    most = Counter(values.values()).most_common(1)[0][0]
    return "; ".join([most, *(f"*{name}* {value}" for name, value in values.items() if value != most)])


# The columns of the one table: the measure, and how its numbers are written.
COLUMNS = {
    "similarity to held out": ("identity similarity", "{:.3f}"),
    "dlib similarity to held out": ("the same with dlib", "{:.3f}"),
    ADHERENCE + CONFLICT: ("prompt adherence in conflict", "{:.0%}"),
    ADHERENCE: ("prompt adherence", "{:.0%}"),  # where no attribute is in conflict, as without a judge
    "copy-paste": ("copy-paste", "{:.3f}"),
    "sharpness": ("face sharpness", "{:.0f}"),
}
DIFFERS = "*"


def columns_of(evaluation: Evaluation) -> list[str]:
    """The measures of the table's columns."""
    known = [name for name in COLUMNS if any(name in one.values for one in evaluation.summaries)]
    return [name for name in known if name != ADHERENCE or ADHERENCE + CONFLICT not in known]


def overview_table(evaluation: Evaluation, against_triplet: Evaluation, chance: Chance) -> str:
    """A row per arm: means with 95 % intervals, marked where the paired difference to the triplet excludes 0 and is
    larger than by chance between trainings."""
    known = columns_of(evaluation)
    differences = {one.condition: one.against_first for one in against_triplet.summaries}
    lines = [
        f"| arm | {' | '.join(COLUMNS[name][0] for name in known)} |",
        "|" + "---|" * (1 + len(known)),
    ]
    for summary in evaluation.summaries:
        own, limits = differences.get(summary.condition, {}), chance.limits(chance.trainings.get(summary.condition, 0))
        cells = [_cell(summary, name, own, limits.get(name, 0.0)) for name in known]
        lines.append(f"| {summary.condition} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(summary: Summary, name: str, differences: dict[str, tuple[float, float, float]], by_chance: float) -> str:
    if name not in summary.values:
        return "–"
    mean, low, high = (COLUMNS[name][1].format(value) for value in summary.values[name])
    difference, least, most = differences.get(name, (0.0, 0.0, 0.0))
    differs = (least > 0 or most < 0) and abs(difference) > by_chance
    return f"{mean} [{low}, {high}]{DIFFERS if differs else ''}"


def _joined(texts: list[str]) -> str:
    """CSV texts with the same head as one."""
    return "".join(text if number == 0 else text.partition("\n")[2] for number, text in enumerate(texts))


def sheet(evaluation_set: EvaluationSet, generated: list[Generated]) -> bytes:
    """JPEG: a row for each of the first people, below its prompt, and a column for each arm's first training."""
    from PIL import Image, ImageDraw

    columns: dict[str, list[Path]] = {}
    indices = [index for index in range(len(evaluation_set.requests)) if index < len(evaluation_set.names)][:SHEET_ROWS]
    requests = [evaluation_set.requests[index] for index in indices]
    people = [one.person for one in requests]
    columns["reference"] = [evaluation_set.references[person] for person in people]
    columns["held out"] = [evaluation_set.held_out[person] for person in people]
    for one in generated:
        if one.arm not in columns:
            columns[one.arm] = [one.paths[index] for index in indices]
    height = BAND + TILE
    picture = Image.new("RGB", (TILE * len(columns), BAND + height * len(indices)), "white")
    pen = ImageDraw.Draw(picture)
    for row, one in enumerate(requests):
        pen.text((3, BAND + row * height + 1), one.prompt, fill="black")
    for number, (name, paths) in enumerate(columns.items()):
        pen.text((number * TILE + 3, 1), name.replace("κ", "kappa"), fill="black")
        for row, path in enumerate(paths):
            tile = Image.open(path).convert("RGB").resize((TILE, TILE), Image.LANCZOS)
            picture.paste(tile, (number * TILE, 2 * BAND + row * height))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue()


def put_into(document: Path, out: Path) -> None:
    """Replace the marked part of `document` by the results in `out`; pictures and tables go beside it. A run without
    the triplet's images leaves the sheet as it is."""
    text = document.read_text(encoding="utf-8")
    before, found, rest = text.partition(MARKS[0])
    old, end, after = rest.partition(MARKS[1])
    if not (found and end):
        raise SystemExit(f"{document} has no marked part: it needs the lines {MARKS[0]} and {MARKS[1]}")
    fragment = (out / "results.md").read_text(encoding="utf-8")
    for name in ("strength.png", "sheet.jpg"):
        if f"({name})" in fragment:
            target = document.with_name(f"{document.stem}-{name}")
            write_atomically(target, (out / name).read_bytes())
            fragment = fragment.replace(f"({name})", f"({target.name})")
    kept = [line for line in old.splitlines() if f"({document.stem}-sheet.jpg)" in line]
    if kept and f"({document.stem}-sheet.jpg)" not in fragment:
        fragment += f"\n{kept[0]}\n"
    folder = document.with_suffix("")
    folder.mkdir(exist_ok=True)
    for table in (out / "tables").glob("*.csv"):
        write_atomically(folder / table.name, table.read_bytes())
    write_atomically(document, f"{before}{MARKS[0]}\n\n{fragment}\n{MARKS[1]}{after}".encode())
