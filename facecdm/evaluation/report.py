"""The report of an evaluation: tables, plots, and one HTML file with all of them."""

import base64
import csv
import html
import importlib.util
import io
import math
from dataclasses import fields
from pathlib import Path

import numpy as np

from ..errors import FaceCDMError, MissingPackage
from ..files import write_atomically
from . import attributes
from .evaluate import Evaluation, Summary
from .samples import Sample

# The measures of what a picture keeps of its prompt, the best first.
FOLLOWS = {
    attributes.ALL + attributes.CONFLICT: "prompt adherence in conflict with the reference",
    attributes.ALL: "prompt adherence",
    "prompt": "similarity to the prompt",
    "change": "change of the picture",
}
INTRODUCTION = "Means over people with 95 % bootstrap intervals. A picture without a face has the similarity 0."
LABEL_OFFSETS = (9, 7), (-9, 7), (9, -7), (-9, -7)  # of the strengths from their points in the plot; one a line
FEW_PEOPLE = 10  # the percentile bootstrap of fewer values is clearly too narrow
FILES = ("report.html", "pictures.csv", "summary.csv", "summary.md", "likeness.png", "strength.png")


def check_plots() -> None:
    """Raise MissingPackage if the plots of a report cannot be drawn. Call it before pictures are measured."""
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingPackage("an evaluation needs matplotlib for its plots: pip install matplotlib")


def check_folder(folder: Path, table: Path, overwrite: bool = False) -> None:
    """Raise FaceCDMError if a report in `folder` would replace a file (with `overwrite`: only for `table`)."""
    if folder.exists() and not folder.is_dir():
        raise FaceCDMError(f"{folder} is a file: choose a folder for --out.")
    taken = [name for name in FILES if (folder / name).exists()]
    if any((folder / name).samefile(table) for name in taken):
        raise FaceCDMError(f"the report in {folder} would replace the table {table.name}: choose another --out.")
    if taken and not overwrite:
        raise FaceCDMError(f"{folder} already has {', '.join(taken)}: choose another --out, or add --overwrite.")


def write(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """Write pictures.csv, summary.csv, summary.md, plots and report.html to `folder`; return name → path.

    Existing files of these names are replaced. Raises FaceCDMError if the folder cannot be written.
    """
    plots = draw(evaluation)
    contents = {
        "pictures.csv": pictures_csv(evaluation),
        "summary.csv": summary_csv(evaluation),
        "summary.md": markdown(evaluation),
        "report.html": page(evaluation, plots),
    }
    files = {name: text.encode() for name, text in contents.items()}
    files |= {f"{name}.png": picture for name, picture in plots.items()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in files.items():
            write_atomically(folder / name, data)
    except OSError as error:
        raise FaceCDMError(f"the report could not be written to {folder}: {error}") from error
    return {name: folder / name for name in files}


def names_of(evaluation: Evaluation) -> list[str]:
    """The names of the measures, in order of appearance."""
    return list(dict.fromkeys(name for row in evaluation.rows for name in row.values))


def pictures_csv(evaluation: Evaluation) -> str:
    names, known = names_of(evaluation), [field.name for field in fields(Sample)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*known, *(f"{name} (measured)" if name in known else name for name in names)])
    for row in evaluation.rows:
        writer.writerow(
            [
                *("" if (value := getattr(row.sample, name)) is None else value for name in known),
                *(f"{row.values[name]:.6g}" if name in row.values else "" for name in names),
            ]
        )
    return out.getvalue()


def summary_csv(evaluation: Evaluation) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["condition", "measure", "mean", "low", "high", "difference", "difference_low", "difference_high"])
    for summary in evaluation.summaries:
        for name, values in summary.values.items():
            writer.writerow(
                [
                    summary.condition,
                    name,
                    *map(_number, values),
                    *map(_number, summary.against_first.get(name, ())),
                ]
            )
    return out.getvalue()


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def introduction(evaluation: Evaluation) -> str:
    """What the table's numbers are, and that few people have too narrow intervals."""
    least = min((summary.people for summary in evaluation.summaries), default=0)
    if least == 1:
        return f"{INTRODUCTION} One person has no interval."
    if least < FEW_PEOPLE:
        return f"{INTRODUCTION} Those of fewer than {FEW_PEOPLE} people are too narrow."
    return INTRODUCTION


def markdown(evaluation: Evaluation) -> str:
    """Introduction, means, differences, recognisers and notes."""
    parts = [
        introduction(evaluation),
        means_table(evaluation),
        differences_table(evaluation),
        f"Recognisers: {', '.join(evaluation.recognisers)}." + "".join(f"\n- {note}" for note in evaluation.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def means_table(evaluation: Evaluation) -> str:
    """Table with one row per condition; intervals are in brackets."""
    names = names_of(evaluation)
    lines = ["| | pictures | people | " + " | ".join(names) + " |", "|" + "---|" * (len(names) + 3)]
    for summary in evaluation.summaries:
        lines.append(
            f"| {_cell(summary.condition)} | {summary.pictures} | {summary.people} | "
            + " | ".join(_interval(summary.values.get(name)) for name in names)
            + " |"
        )
    return "\n".join(lines)


def differences_table(evaluation: Evaluation) -> str:
    """The paired differences of each condition to the first; empty for a single condition."""
    compared = _compared(evaluation)
    if not compared:
        return ""
    names, first = names_of(evaluation), evaluation.summaries[0].condition
    lines = [
        f"Paired differences to *{_cell(first)}*, by person:",
        "",
        "| | " + " | ".join(names) + " |",
        "|" + "---|" * (len(names) + 1),
    ]
    lines += [
        f"| {_cell(summary.condition)} | "
        + " | ".join(_interval(summary.against_first.get(name), signed=True) for name in names)
        + " |"
        for summary in compared
    ]
    return "\n".join(lines)


def _compared(evaluation: Evaluation) -> list[Summary]:
    return [summary for summary in evaluation.summaries if summary.against_first]


def _interval(values: tuple[float, float, float] | None, signed: bool = False) -> str:
    if values is None:
        return "–"
    digits = 0 if max(abs(value) for value in values) >= 100 else 3
    mean, low, high = (f"{value:{'+' if signed else ''}.{digits}f}" for value in values)
    return mean if math.isnan(values[1]) else f"{mean} [{low}, {high}]"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def draw(evaluation: Evaluation) -> dict[str, bytes]:
    """PNG plots by name: a histogram of identity similarity, and, if strengths are known, identity similarity against
    prompt adherence.
    """
    names = names_of(evaluation)
    similarity = next(name for name in ("similarity to held out", "similarity to reference") if name in names)
    plots = {"likeness": _histogram(evaluation, similarity)}
    follows = next((name for name in FOLLOWS if name in names), None)
    if follows is not None and any(row.sample.strength is not None for row in evaluation.rows):
        plots["strength"] = _curve(evaluation, similarity, follows)
    return plots


def _histogram(evaluation: Evaluation, name: str) -> bytes:
    figure, axis = _figure()
    for summary in evaluation.summaries:
        values = [
            row.values[name]
            for row in evaluation.rows
            if row.sample.condition == summary.condition and name in row.values
        ]
        axis.hist(values, bins=[step / 20 for step in range(-20, 21)], alpha=0.5, label=_plain(summary.condition))
    axis.set(xlabel=_plain(f"{name} ({evaluation.recognisers[0]})"), ylabel="pictures")
    axis.legend()
    return _png(figure)


def _curve(evaluation: Evaluation, similarity: str, follows: str) -> bytes:
    """One line for each `line` of the samples, over the strength; the bars are the summaries' intervals."""
    from matplotlib.ticker import PercentFormatter

    figure, axis = _figure()
    lines = _lines(evaluation, {similarity, follows})
    for number, (name, points) in enumerate(lines.items()):
        (xs, x_bars), (ys, y_bars) = (
            _with_bars([summary.values[measure] for _, summary in points]) for measure in (follows, similarity)
        )
        (line,) = axis.plot(xs, ys, marker="o", label=_plain(name))
        axis.errorbar(xs, ys, y_bars, x_bars, fmt="none", color=line.get_color(), alpha=0.25)
        offset = dict(xytext=LABEL_OFFSETS[number % len(LABEL_OFFSETS)], textcoords="offset points")
        label = dict(fontsize=7, color=line.get_color(), ha="center", va="center", **offset)
        for (strength, _), x, y in zip(points, xs, ys):
            axis.annotate(f"{strength:g}", (x, y), **label)
    if any(lines):  # a line may have no name
        axis.legend(fontsize=7)
    axis.set(xlabel=FOLLOWS[follows], ylabel=f"identity {similarity}", title="The numbers are strengths")
    if follows.startswith(attributes.ALL):
        axis.xaxis.set_major_formatter(PercentFormatter(1))
    return _png(figure)


def _lines(evaluation: Evaluation, measures: set[str]) -> dict[str, list[tuple[float, Summary]]]:
    """Strengths and summaries by line. A condition of strength 0 that is alone in its line (the base model's)
    begins all lines that have no point of strength 0."""
    samples = {row.sample.condition: row.sample for row in evaluation.rows if row.sample.strength is not None}
    lines: dict[str, list[tuple[float, Summary]]] = {}
    for summary in evaluation.summaries:
        if summary.condition in samples and measures <= summary.values.keys():
            sample = samples[summary.condition]
            lines.setdefault(sample.line, []).append((sample.strength, summary))
    bases = [name for name, points in lines.items() if [strength for strength, _ in points] == [0]]
    if len(bases) == 1 and len(lines) > 1:
        base = lines.pop(bases[0])
        for points in lines.values():
            if all(strength for strength, _ in points):
                points.extend(base)
    return {name: sorted(points, key=lambda point: point[0]) for name, points in lines.items()}


def _with_bars(values: list[tuple[float, float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """(mean, low, high) of each of n points → means [n], and lengths of the bars below and above them [2, n]."""
    means, lows, highs = np.array(values).T
    return means, np.maximum([means - lows, highs - means], 0)


def _plain(text: str) -> str:
    """The text for matplotlib, which reads what is between two dollar signs as a formula."""
    return text.replace("$", r"\$")


def _figure():
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _png(figure) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, dpi=110, format="png", metadata={"Software": None})
    return out.getvalue()


def page(evaluation: Evaluation, plots: dict[str, bytes]) -> str:
    """One self-contained HTML file: summary, differences, plots, and the measures of every picture."""
    names = names_of(evaluation)
    rows = [
        [
            summary.condition,
            str(summary.pictures),
            str(summary.people),
            *(_interval(summary.values.get(name)) for name in names),
        ]
        for summary in evaluation.summaries
    ]
    differences = [
        [summary.condition, *(_interval(summary.against_first.get(name), signed=True) for name in names)]
        for summary in _compared(evaluation)
    ]
    compared = differences and (
        f"<p>Paired differences to <i>{html.escape(evaluation.summaries[0].condition)}</i>, by person:</p>"
        + _table(["condition", *names], differences)
    )
    pictures = [
        [
            row.sample.picture.name,
            row.sample.person,
            row.sample.condition,
            *(f"{row.values[name]:.3f}" if name in row.values else "–" for name in names),
        ]
        for row in evaluation.rows
    ]
    images = "".join(
        f'<img alt="{html.escape(name)}" src="data:image/png;base64,{base64.b64encode(data).decode()}">'
        for name, data in plots.items()
    )
    return f"""<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Identity evaluation</title>
<style>body{{font:15px/1.5 system-ui;margin:2rem auto;max-width:75rem;padding:0 1rem}}
table{{border-collapse:collapse;font-size:13px;margin:1rem 0}}th,td{{padding:.3rem .6rem;border-bottom:1px solid #ddd;
text-align:left}}th{{position:sticky;top:0;background:#fff}}img{{max-width:100%}}</style>
<h1>Identity evaluation</h1>
<p>{introduction(evaluation)} Recognisers: {html.escape(", ".join(evaluation.recognisers))}.</p>
{_table(["condition", "pictures", "people", *names], rows)}{compared or ""}{images}
{"".join(f"<p>{html.escape(note)}</p>" for note in evaluation.notes)}
<h2>Pictures</h2>{_table(["picture", "person", "condition", *names], pictures)}</html>
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
