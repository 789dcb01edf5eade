"""What an evaluation leaves: tables, plots, and one HTML file that holds them all."""

import base64
import csv
import html
import io
from dataclasses import fields
from pathlib import Path

from .evaluate import Evaluation, Summary
from .samples import Sample

INTRODUCTION = "Means over people with 95 % bootstrap intervals. A picture without a face counts 0 as a likeness."


def write(evaluation: Evaluation, folder: Path) -> dict[str, Path]:
    """pictures.csv, summary.csv, summary.md, plots and report.html in `folder`; paths by name."""
    folder.mkdir(parents=True, exist_ok=True)
    plots = draw(evaluation)
    contents = {
        "pictures.csv": pictures_csv(evaluation),
        "summary.csv": summary_csv(evaluation),
        "summary.md": markdown(evaluation),
        "report.html": page(evaluation, plots),
    }
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name, picture in plots.items():
        (folder / f"{name}.png").write_bytes(picture)
    return {name: folder / name for name in (*contents, *(f"{name}.png" for name in plots))}


def names_of(evaluation: Evaluation) -> list[str]:
    """The measures, in the order in which they were taken."""
    return list(dict.fromkeys(name for row in evaluation.rows for name in row.values))


def pictures_csv(evaluation: Evaluation) -> str:
    names, known = names_of(evaluation), [field.name for field in fields(Sample)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*known, *names])
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
                    *(f"{value:.6g}" for value in values),
                    *(f"{value:.6g}" for value in summary.against_first.get(name, ())),
                ]
            )
    return out.getvalue()


def markdown(evaluation: Evaluation) -> str:
    """What is told, the means, the differences, and who judged."""
    parts = [
        INTRODUCTION,
        means_table(evaluation),
        differences_table(evaluation),
        f"Recognisers: {', '.join(evaluation.recognisers)}." + "".join(f"\n- {note}" for note in evaluation.notes),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def means_table(evaluation: Evaluation) -> str:
    """One row per condition; in brackets the interval."""
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
    """Each condition's paired differences to the first one; empty where there is but one."""
    compared = [summary for summary in evaluation.summaries if summary.against_first]
    if not compared:
        return ""
    names, first = names_of(evaluation), evaluation.summaries[0].condition
    lines = [
        f"Paired differences to *{_cell(first)}*, people by people:",
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


def _interval(values: tuple[float, float, float] | None, signed: bool = False) -> str:
    if values is None:
        return "–"
    digits = 0 if max(abs(value) for value in values) >= 100 else 3
    mean, low, high = (f"{value:{'+' if signed else ''}.{digits}f}" for value in values)
    return f"{mean} [{low}, {high}]"


def _cell(text: str) -> str:
    return text.replace("|", "/").replace("\n", " ")


def draw(evaluation: Evaluation) -> dict[str, bytes]:
    """PNG plots by name: histograms of the likeness, and likeness against prompt following over the strength."""
    names = names_of(evaluation)
    similarity = next(name for name in ("similarity to held out", "similarity to reference") if name in names)
    plots = {"likeness": _histogram(evaluation, similarity)}
    follows = next((name for name in ("prompt", "change") if name in names), None)
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
        axis.hist(values, bins=[step / 20 for step in range(-20, 21)], alpha=0.5, label=summary.condition)
    axis.set(xlabel=f"{name} ({evaluation.recognisers[0]})", ylabel="pictures")
    axis.legend()
    return _png(figure)


def _curve(evaluation: Evaluation, similarity: str, follows: str) -> bytes:
    strengths = {
        row.sample.condition: row.sample.strength for row in evaluation.rows if row.sample.strength is not None
    }
    shown: list[Summary] = sorted(
        (
            s
            for s in evaluation.summaries
            if s.condition in strengths and similarity in s.values and follows in s.values
        ),
        key=lambda s: strengths[s.condition],
    )
    figure, axis = _figure()
    xs, ys = ([summary.values[name][0] for summary in shown] for name in (follows, similarity))
    axis.plot(xs, ys, marker="o")
    for summary, x, y in zip(shown, xs, ys):
        axis.annotate(f"{strengths[summary.condition]:g}", (x, y), textcoords="offset points", xytext=(5, 5))
    axis.set(
        xlabel={"prompt": "prompt following", "change": "change of the picture"}[follows],
        ylabel=similarity,
        title="over the strength",
    )
    return _png(figure)


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
    """One HTML file: summary, plots, every picture's numbers. It loads nothing."""
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
<html lang="en"><meta charset="utf-8"><title>Identity, evaluated</title>
<style>body{{font:15px/1.5 system-ui;margin:2rem auto;max-width:75rem;padding:0 1rem}}
table{{border-collapse:collapse;font-size:13px;margin:1rem 0}}th,td{{padding:.3rem .6rem;border-bottom:1px solid #ddd;
text-align:left}}th{{position:sticky;top:0;background:#fff}}img{{max-width:100%}}</style>
<h1>Identity, evaluated</h1><p>{INTRODUCTION} Recognisers: {html.escape(", ".join(evaluation.recognisers))}.</p>
{_table(["condition", "pictures", "people", *names], rows)}{images}
{"".join(f"<p>{html.escape(note)}</p>" for note in evaluation.notes)}
<h2>Every picture</h2>{_table(["picture", "person", "condition", *names], pictures)}</html>
"""


def _table(head: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    return f"<table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
