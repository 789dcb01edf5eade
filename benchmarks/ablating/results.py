"""What is written down: tables, the curve over the strength, the pictures side by side, one JSON."""

import io
import itertools
import json
from dataclasses import dataclass, field
from pathlib import Path

from facecdm.evaluation import report
from facecdm.evaluation.evaluate import SampleScores
from facecdm.files import write_atomically

from . import hearing
from .arms import NOT_ASKED, TRIPLET, arm
from .judging import Drawn, Judge, verdicts
from .people import Cast

MARKS = ("<!-- ablation: begin -->", "<!-- ablation: end -->")
TILE, BAND, SHEET_ROWS = 128, 14, 12


@dataclass(frozen=True, eq=False)
class Results:
    """All that is known so far. `facts` are those of the trainings, `left_out` arms and why, `settings` the options,
    `heard` what `hearing.Ear` was told of each training."""

    judge: Judge
    rows: list[SampleScores]
    drawn: list[Drawn]
    facts: list[dict]
    settings: dict
    wanted: int  # how many conditions the whole run has
    left_out: dict[str, str] = field(default_factory=dict)
    heard: dict[str, dict] = field(default_factory=dict)

    def write(self, out: Path) -> Path:
        """Everything into `out`; gives the Markdown's path."""
        out.mkdir(parents=True, exist_ok=True)
        arms = self.judge.of_arms(self.rows, self.drawn)
        report.write(arms, out / "report")
        write_atomically(out / "table.csv", report.summary_csv(arms).encode())
        write_atomically(out / "results.json", json.dumps(self.as_json(), indent=1, default=str).encode())
        if curve := self.curve():
            write_atomically(out / "strength.png", curve)
        write_atomically(out / "sheet.jpg", sheet(self.judge.cast, self.drawn))
        write_atomically(out / "results.md", self.markdown().encode())
        return out / "results.md"

    def as_json(self) -> dict:
        evaluations = {
            name: view(self.rows, self.drawn)
            for name, view in (
                ("arms", self.judge.of_arms),
                ("against face alone", self.judge.of_headline),
                ("against the triplet", self.judge.of_one_training),
                ("seeds", self.judge.of_seeds),
                ("strengths", self.judge.of_strengths),
            )
        }
        tables = {
            name: {
                summary.condition: {
                    "pictures": summary.pictures,
                    "people": summary.people,
                    "means": summary.values,
                    "differences": summary.against_first,
                }
                for summary in evaluation.summaries
            }
            for name, evaluation in evaluations.items()
        }
        return {
            "settings": self.settings,
            "complete": self._complete,
            "left out": self.left_out,
            "trainings": self.facts,
            "heard": self.heard,
            **tables,
        }

    def curve(self) -> bytes | None:
        evaluation = self.judge.of_strengths(self.rows, self.drawn)
        return report.draw(evaluation).get("strength") if len(evaluation.summaries) > 1 else None

    @property
    def _complete(self) -> bool:
        return len(self.drawn) == self.wanted and not self.left_out

    def markdown(self) -> str:
        """The fragment for docs/results.md; pictures lie beside it."""
        none = self.judge.of_arms(self.rows, self.drawn)
        face = self.judge.of_headline(self.rows, self.drawn)
        triplet = self.judge.of_one_training(self.rows, self.drawn)
        seeds, strengths = self.judge.of_seeds(self.rows, self.drawn), self.judge.of_strengths(self.rows, self.drawn)
        told = list(dict.fromkeys(one.arm for one in self.drawn))
        parts = [
            self._scale(),
            report.TOLD,
            report.means_table(none),
            report.differences_table(none),
            report.differences_table(face),
            report.differences_table(triplet),
            "An interval that leaves 0 out, in words:\n\n"
            + "\n".join(f"- {line}" for line in verdicts([none, face, triplet])),
            "The arms:\n\n" + "\n".join(f"- *{name}*: {arm(name).says}" for name in told),
            self.heard
            and "Is it heard who is shown? Of the held-out photo's face, what one step without "
            "words misses (1: as the average face):\n\n"
            + hearing.table(self.heard, self.judge.cast.names),
            len(self.heard) > 1
            and TRIPLET in self.heard
            and f"How much more the wrong person adds than in the *{TRIPLET}* (who is told, than in the told one):\n\n"
            + hearing.against(self.heard, TRIPLET, self.judge.cast.names),
            seeds.rows and "Each training by itself:\n\n" + report.means_table(seeds),
            strengths.rows
            and "The triplet over the strength of both its streams (its LoRA stays at 1):\n\n"
            + report.means_table(strengths)
            + "\n\n![Likeness against prompt following over the strength](strength.png)",
            "![Same words, same noise, every arm side by side](sheet.jpg)",
            f"Recognisers: {', '.join(none.recognisers)}; the last one took no part in any training."
            if len(none.recognisers) > 1
            else f"Recogniser: {none.recognisers[0]}, which the training knew too.",
        ]
        return "\n\n".join(part for part in parts if part) + "\n"

    def _scale(self) -> str:
        cast, steps = self.judge.cast, {fact["arm"]: self._steps(fact) for fact in self.facts}
        arms = len(dict.fromkeys(one.arm for one in self.drawn))
        done = f"{len(self.drawn)} of {self.wanted} conditions of this run are done"
        kind = (
            "Complete."
            if self._complete
            else (
                f"**Partial**: {arms} of {arms + len(self.left_out)} arms"
                f"{'' if len(self.drawn) == self.wanted else f', {done}'}."
            )
        )
        lines = [f"{kind} {len(cast.names)} people × {len(cast.asked) // len(cast.names)} prompts."]
        for name, same in itertools.groupby(steps, key=steps.get):
            lines.append(f"Steps × batch of {', '.join(f'*{arm}*' for arm in same)}: {name}.")
        weights = {fact["arm"]: f"*{fact['arm']}* {fact['weights'] / 1e6:.2f}" for fact in self.facts}
        lines.append(f"Millions of weights: {', '.join(weights.values())}.")
        not_asked = [f"*{name}*" for name, why in self.left_out.items() if why == NOT_ASKED]
        lines += [f"Left out: *{name}* ({why})." for name, why in self.left_out.items() if why != NOT_ASKED]
        return " ".join([*lines, *([f"Not asked for: {', '.join(not_asked)}."] if not_asked else [])])

    def _steps(self, fact: dict) -> str:
        stages = ", ".join(f"{stage['name']} {stage['steps']} × {stage['batch']}" for stage in fact["stages"])
        return f"{stages} (given: {fact['file']})" if "file" in fact else stages


def sheet(cast: Cast, drawn: list[Drawn]) -> bytes:
    """JPEG: a row for each of the first people, a column for each arm's first training."""
    from PIL import Image, ImageDraw

    columns: dict[str, list[Path]] = {}
    places = [place for place in range(len(cast.asked)) if place < len(cast.names)][:SHEET_ROWS]
    people = [cast.asked[place].person for place in places]
    columns["reference"] = [cast.references[person] for person in people]
    columns["held out"] = [cast.held_out[person] for person in people]
    for one in drawn:
        if one.strength is None and one.arm not in columns:
            columns[one.arm] = [one.paths[place] for place in places]
    picture = Image.new("RGB", (TILE * len(columns), BAND + TILE * len(places)), "white")
    pen = ImageDraw.Draw(picture)
    for number, (name, paths) in enumerate(columns.items()):
        pen.text((number * TILE + 3, 1), name.replace("κ", "kappa"), fill="black")
        for row, path in enumerate(paths):
            tile = Image.open(path).convert("RGB").resize((TILE, TILE), Image.LANCZOS)
            picture.paste(tile, (number * TILE, BAND + row * TILE))
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=88)
    return out.getvalue()


def put_into(document: Path, out: Path) -> None:
    """Replace what stands between the marks of `document` by the results of `out`, and copy the pictures beside it."""
    text = document.read_text(encoding="utf-8")
    before, found, rest = text.partition(MARKS[0])
    _, end, after = rest.partition(MARKS[1])
    if not (found and end):
        raise SystemExit(f"{document} has no place for the results: it wants the lines {MARKS[0]} and {MARKS[1]}")
    fragment = (out / "results.md").read_text(encoding="utf-8")
    for name in ("strength.png", "sheet.jpg"):
        if (out / name).exists():
            target = document.with_name(f"{document.stem}-{name}")
            write_atomically(target, (out / name).read_bytes())
            fragment = fragment.replace(f"({name})", f"({target.name})")
    write_atomically(document, f"{before}{MARKS[0]}\n\n{fragment}\n{MARKS[1]}{after}".encode())
