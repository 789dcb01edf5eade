"""An evaluation of real portraits by real recognisers, from the table to the report."""

import contextlib
import csv
import dataclasses
import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from full_disk import every_write
from PIL import Image, ImageFilter

from facecdm import cli
from facecdm.errors import BadFile, FaceCDMError, NoFace
from facecdm.evaluation import report, samples
from facecdm.evaluation.evaluate import Evaluation, Evaluator, SampleScores, Summary
from facecdm.evaluation.pictures import cached_opener
from facecdm.evaluation.recognisers import InsightFace


@pytest.fixture(scope="module")
def table(people, tmp_path_factory):
    """The second view stands for the generated picture: in "right" that of the person, in "wrong" that of the other,
    and once a picture without a face."""
    folder = tmp_path_factory.mktemp("evaluation")
    Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(folder / "empty.png")
    blurred = folder / "blurred.png"
    Image.open(people["0005"][1]).convert("RGB").filter(ImageFilter.GaussianBlur(2)).save(blurred)
    names, rows = list(people), []
    for person, other in zip(names, names[::-1]):
        reference, shown, held_out = people[person]
        rows += [
            dict(picture=people[other][1], condition="wrong", strength=0.0),
            dict(picture=shown, condition="right", strength=1.0, plain=people[other][1]),
        ]
        for row in rows[-2:]:
            row |= dict(person=person, reference=reference, held_out=held_out)
    rows += [
        dict(
            picture=folder / "empty.png",
            condition="right",
            strength=1.0,
            person="0005",
            reference=people["0005"][0],
            held_out=people["0005"][2],
        ),
        dict(picture=blurred, condition="blurred", person="0005", reference=people["0005"][0]),
    ]
    path = folder / "table.jsonl"
    path.write_text("\n".join(json.dumps({name: str(value) for name, value in row.items()}) for row in rows))
    return path


@pytest.fixture(scope="module")
def result(table, face_models):
    judge = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    return Evaluator([judge], cached_opener()).run(samples.read(table))


def test_the_right_person_has_a_higher_similarity_than_the_wrong_one(result):
    means = {
        summary.condition: {name: value[0] for name, value in summary.values.items()} for summary in result.summaries
    }
    # Person 0005 has one picture without a face under "right": it counts as 0, not as nothing.
    similarity = {
        row.sample.picture.name: row.values["similarity to held out"]
        for row in result.rows
        if row.sample.condition == "right"
    }
    assert similarity["empty.png"] == 0
    assert means["right"]["similarity to held out"] > means["wrong"]["similarity to held out"]
    assert means["wrong"]["face found"] == 1 and means["right"]["face found"] == pytest.approx(0.75)
    right = next(summary for summary in result.summaries if summary.condition == "right")
    assert right.pictures == 3 and right.people == 2
    assert right.against_first["similarity to held out"][0] == pytest.approx(
        means["right"]["similarity to held out"] - means["wrong"]["similarity to held out"]
    )


def test_a_blurred_face_is_less_sharp(result):
    sharp = {
        row.sample.condition: row.values["sharpness"]
        for row in result.rows
        if row.sample.person == "0005" and "sharpness" in row.values
    }
    assert sharp["blurred"] < 0.5 * sharp["right"]


def test_the_command_writes_tables_plots_and_a_page_that_loads_nothing(table, face_models, tmp_path, capsys):
    out = tmp_path / "report"
    assert (
        cli.main(
            [
                "evaluate",
                str(table),
                "--faces",
                str(face_models / "models" / "insightface"),
                "--pack",
                "buffalo_s",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    assert "report.html" in capsys.readouterr().out
    page = (out / "report.html").read_text()
    assert "http" not in page and page.count("data:image/png") == 2
    rows = list(csv.DictReader((out / "pictures.csv").open()))
    assert len(rows) == 6 and rows[0]["condition"] == "wrong"
    with (out / "pictures.csv").open() as file:
        head = next(csv.reader(file))
    assert len(head) == len(set(head)) and "yaw (measured)" in head
    assert "Paired differences to <i>wrong</i>, by person" in page
    assert {path.name for path in out.iterdir()} == set(report.FILES)


def test_attributes_are_measured_and_each_line_has_its_curve(table, face_models, monkeypatch):
    """A judge that sees laughing in every face; the empty picture has none."""

    class Laughing:
        def read(self, picture, keypoints):
            return {} if keypoints is None else {"expression": "laughing"}

    rows = [
        dataclasses.replace(
            row,
            strength=float(number),
            line="one" if number < 3 else "two",
            condition=str(number),
            attributes="expression: laughing / neutral",
        )
        for number, row in enumerate(samples.read(table)[:5])
    ]
    recogniser = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    result = Evaluator([recogniser], cached_opener(), judge=Laughing()).run(rows)
    assert [row.values["adherence, conflict"] for row in result.rows] == [1, 1, 1, 1, 0]
    assert curves_of(result, monkeypatch) == {"one": ["0", "1", "2"], "two": ["3", "4"]}
    assert report.draw(result)["strength"].startswith(b"\x89PNG")


def curves_of(evaluation, monkeypatch) -> dict[str, list[str]]:
    """Line of the plot by strength → the strengths at its points."""
    with monkeypatch.context() as patch:
        patch.setattr(report, "_png", lambda figure: figure)
        axis = report.draw(evaluation)["strength"].axes[0]
    texts = {text.xy: text.get_text() for text in axis.texts}
    assert len(axis.collections) == 2 * len(axis.lines), "the intervals along both axes"
    return {line.get_label(): [texts[point] for point in zip(*line.get_data())] for line in axis.lines}


def test_curves_over_the_strength_begin_at_the_base_model(monkeypatch):
    """The adherence in conflict is drawn if there is one; here the other measure differs from it at every point."""
    points = {
        "base": (0, "no adapter"),
        "half": (0.5, "a"),
        "whole": (1.0, "a"),
        "other": (1.0, "b"),
        "off": (0.0, "b"),
    }
    rows, summaries = [], []
    for number, (condition, (strength, line)) in enumerate(points.items()):
        sample = samples.Sample(Path("x"), "p", condition, Path("r"), strength=strength, line=line)
        values = {"similarity to reference": number / 10, "adherence, conflict": 1 - number / 10, "adherence": 0.5}
        rows.append(SampleScores(sample, values))
        summaries.append(Summary(condition, 1, 1, {name: (x, x - 0.1, x + 0.1) for name, x in values.items()}))
    evaluation = Evaluation(rows, summaries, ["a recogniser"], [])
    assert curves_of(evaluation, monkeypatch) == {"a": ["0", "0.5", "1"], "b": ["0", "1"]}
    apart = dataclasses.replace(evaluation, summaries=[one for one in summaries if one.condition in ("base", "off")])
    assert curves_of(apart, monkeypatch) == {"no adapter": ["0"], "b": ["0"]}


def test_a_line_without_a_name_has_no_legend(recwarn):
    sample = samples.Sample(Path("x"), "p", "one", Path("r"), strength=1.0)
    values = {"similarity to reference": 0.5, "adherence": 0.5}
    summary = Summary("one", 1, 1, {name: (x, x, x) for name, x in values.items()})
    report.draw(Evaluation([SampleScores(sample, values)], [summary], ["a recogniser"], []))
    assert not [str(one.message) for one in recwarn]


def test_dollar_signs_in_names_are_no_formula(monkeypatch):
    """`$b_{$ c` is a formula that matplotlib cannot read."""
    odd = "$b_{$ c"
    sample = samples.Sample(Path("x"), "p", odd, Path("r"), strength=1.0, line=odd)
    values = {"similarity to reference": 0.5, "adherence": 0.5}
    summary = Summary(odd, 1, 1, {name: (x, x, x) for name, x in values.items()})
    evaluation = Evaluation([SampleScores(sample, values)], [summary], [odd], [])
    assert all(plot.startswith(b"\x89PNG") for plot in report.draw(evaluation).values())
    monkeypatch.setattr(report, "_png", lambda figure: figure)
    shown = [figure.axes[0].get_legend().get_texts()[0].get_text() for figure in report.draw(evaluation).values()]
    assert shown == [odd.replace("$", r"\$")] * 2


def test_copy_paste_ignores_the_mean_of_others(table, face_models, people, result):
    """WithAnyone's score is of the embeddings themselves."""
    recogniser = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    rows = samples.read(table)[:2]
    centred = Evaluator([recogniser], cached_opener(), others=[people["0006"][0]]).run(rows).rows
    for row, plain in zip(centred, result.rows):
        assert row.values["copy-paste"] == plain.values["copy-paste"]
        assert row.values["similarity to held out"] != plain.values["similarity to held out"]


def test_a_judge_without_attributes_is_refused(table, face_models, tmp_path, capsys):
    command = ["evaluate", str(table), "--faces", str(face_models / "models/insightface"), "--out", str(tmp_path / "a")]
    with contextlib.suppress(SystemExit):
        assert cli.main([*command, "--judge", "judge.pt"]) != 0
    assert "needs the column attributes" in capsys.readouterr().err
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps(json.loads(table.read_text().splitlines()[0]) | {"attributes": "laughing"}))
    with pytest.raises(BadFile, match="row 1: attributes: 'laughing' has no name"):
        samples.read(path)


def test_a_reference_without_a_face_is_named(table, face_models):
    first = samples.read(table)[0]
    empty = table.parent / "empty.png"
    judge = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    faceless = type(first)(first.picture, "0005", "x", empty)
    with pytest.raises(NoFace, match="no face was found in .*empty.png, the reference photo of 0005"):
        Evaluator([judge], cached_opener()).run([faceless])
    result = Evaluator([judge], cached_opener()).run([faceless, first, faceless])
    assert [row.sample for row in result.rows] == [first]
    assert len(result.notes) == 1 and re.match("2 pictures left out: no face was found in", result.notes[0])


def test_a_picture_that_cannot_be_read_or_compared_is_left_out_and_named(table, face_models, tmp_path):
    broken, small = tmp_path / "broken.png", tmp_path / "small.png"
    broken.write_bytes(b"\x89PNG but no picture")
    first = samples.read(table)[1]
    with Image.open(first.plain) as picture:
        picture.resize((64, 48)).save(small)
    rows = [dataclasses.replace(first, picture=broken), dataclasses.replace(first, plain=small), first]
    judge = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    result = Evaluator([judge], cached_opener()).run(rows)
    assert [row.sample for row in result.rows] == rows[1:]
    assert "change" not in result.rows[0].values and result.rows[1].values["change"] > 0
    left, sizes = sorted(result.notes)
    assert left.startswith("1 picture left out: ") and "broken.png cannot be read" in left
    assert sizes == "change: not measured between pictures of 256 × 256 and 64 × 48 pixels"
    assert all(note in report.markdown(result) for note in result.notes)
    with pytest.raises(BadFile, match="broken.png cannot be read"):
        Evaluator([judge], cached_opener()).run(rows[:1])


def test_others_without_a_face_are_named(table, face_models, people):
    judge = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    empty, broken = table.parent / "empty.png", table
    some = Evaluator([judge], cached_opener(), others=[people["0006"][0], empty, broken])
    assert some.centres[0] is not None and len(some.notes) == 2
    assert "table.jsonl cannot be read" in some.notes[0] and "no face in 1 of 3 pictures" in some.notes[1]
    none = Evaluator([judge], cached_opener(), others=[empty])
    assert none.centres == [None] and "others have no effect" in none.notes[-1]


def test_a_photo_without_a_face_for_the_second_recogniser_is_named(table, face_models):
    """The person's similarity is absent, and not 0."""

    class Blind:
        name = "second"

        def recognise(self, picture):
            return None

    judge = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    result = Evaluator([judge, Blind()], cached_opener()).run(samples.read(table)[:1])
    assert "second similarity to reference" not in result.rows[0].values
    assert len(result.notes) == 2 and "the held out photo of 0005, by second" in result.notes[1]


def test_one_person_has_no_interval_and_few_have_a_warning(table, face_models):
    judge = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    rows = samples.read(table)
    alone = Evaluator([judge], cached_opener()).run([row for row in rows[:4] if row.person == "0005"])
    text = report.markdown(alone)
    assert "One person has no interval." in text and "[" not in text and "nan" not in report.page(alone, {})
    assert "nan" not in report.summary_csv(alone) and report.draw(alone)["strength"]
    both = report.markdown(Evaluator([judge], cached_opener()).run(rows[:4]))
    assert "fewer than 10 people are too narrow" in both and "[" in both


def test_mistakes_of_a_table_are_named(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("picture,person,condition,reference\nno.png,a,b,no.png\n,a,b,\n")
    with pytest.raises(BadFile, match=r"row 1: picture: there is no file .*; row 2: picture, reference is missing"):
        samples.read(path)
    path.write_text(f"picture,person,condition,reference\n{'x' * 300}.png,a,b,table.csv\n")
    with pytest.raises(BadFile, match="row 1: "):
        samples.read(path)


def test_a_condition_has_one_strength(tmp_path):
    path = tmp_path / "table.jsonl"
    row = {"picture": path.name, "person": 0, "condition": 0, "reference": path.name, "prompt": "a\u2028b"}
    path.write_text("\n".join(json.dumps(row | {"strength": at}, ensure_ascii=False) for at in (1, 1)))
    assert {(one.person, one.condition, one.prompt) for one in samples.read(path)} == {("0", "0", "a\u2028b")}
    path.write_text("\n".join(json.dumps(row | {"strength": at}) for at in (1, 2)))
    with pytest.raises(BadFile, match="condition '0' has several values of strength"):
        samples.read(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"picture": 1}\n[1, 2]\nnull\n', "row 1: person, condition, reference is missing; row 2: it is no object"),
        (b"\xff\xfe", "is not UTF-8"),
        (b"", "it has no rows"),
        (b"{" * 100000, "cannot be read"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "cannot be read"),
    ],
    ids=["rows", "latin", "empty", "brackets", "deep"],
)
def test_a_table_that_cannot_be_read_is_named(tmp_path, content, message):
    path = tmp_path / "table.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadFile, match=message) as caught:
        samples.read(path)
    assert len(str(caught.value)) <= 1000


@pytest.mark.parametrize("value", ["nan", "inf", "-1e999", "much", "9" * 5000])
def test_a_number_that_is_none_is_named(table, tmp_path, value):
    row = json.loads(table.read_text().splitlines()[0]) | {"strength": value}
    path = tmp_path / "table.jsonl"
    path.write_text(json.dumps(row))
    with pytest.raises(BadFile, match="row 1: strength must be a number"):
        samples.read(path)


def test_a_report_is_not_replaced_unasked(table, face_models, tmp_path, capsys):
    (tmp_path / "report.html").write_text("mine")
    command = ["evaluate", str(table), "--faces", str(face_models / "models/insightface"), "--out", str(tmp_path)]
    for name in report.FILES:
        (tmp_path / "report.html").rename(tmp_path / name) if name != "report.html" else None
        with contextlib.suppress(SystemExit):
            assert cli.main(command) != 0
        assert f"already has {name}" in (said := capsys.readouterr().err) and "--overwrite" in said
        assert (tmp_path / name).read_text() == "mine"
        (tmp_path / name).rename(tmp_path / "report.html")


def test_a_report_never_replaces_its_own_table(people, face_models, tmp_path, capsys):
    views, table = people["0005"], tmp_path / "pictures.csv"
    text = f"picture,person,condition,reference\n{views[1]},0005,a,{views[0]}\n"
    table.write_text(text)
    command = ["evaluate", str(table), "--faces", str(face_models / "models/insightface")]
    with contextlib.suppress(SystemExit):
        assert cli.main([*command, "--out", str(tmp_path), "--overwrite"]) != 0
    assert "would replace the table pictures.csv" in capsys.readouterr().err and table.read_text() == text
    with contextlib.suppress(SystemExit):
        assert cli.main([*command, "--out", str(table)]) != 0
    assert "is a file: choose a folder" in capsys.readouterr().err and table.read_text() == text


def test_what_has_no_effect_is_noted(people, face_models, tmp_path, capsys):
    views, table = people["0005"], tmp_path / "table.csv"
    head = "picture,person,condition,reference,prompt,strength,attributes,heldout"
    row = f'{views[1]},0005,a,{views[0]},"one\ntwo",1,expression: laughing / neutral,{views[2]}'
    table.write_text(f"{head}\n{row}\n")
    assert samples.read(table)[0].prompt == "one\ntwo"
    command = ["evaluate", str(table), "--faces", str(face_models / "models/insightface"), "--pack", "buffalo_s"]
    assert cli.main([*command, "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    for note in (
        "table.csv: columns without effect: heldout",
        "prompt: not measured without --clip",
        "attributes: not measured without --clip or --judge",
        "strength: no curve is drawn",
    ):
        assert f"- {note}" in said
    (tmp_path / "nobody").mkdir()
    assert cli.main([*command, "--out", str(tmp_path / "out 2"), "--others", str(tmp_path / "nobody")]) == 1
    assert "--others: there are no pictures in" in capsys.readouterr().err


def test_without_matplotlib_the_command_says_so_before_it_measures(table, face_models, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    command = ["evaluate", str(table), "--faces", str(face_models / "models/insightface"), "--out", str(tmp_path)]
    assert cli.main(command) == 1
    said = capsys.readouterr().err
    assert "pip install matplotlib" in said and "evaluating" not in said


def test_every_write_of_a_report_on_a_full_disk(result, tmp_path):
    """A file is the old or the new one, and the same command writes the rest."""
    whole, refused = report.write(result, tmp_path / "whole"), 0
    for _, out, error in every_write(lambda out: report.write(result, out), tmp_path, FaceCDMError):
        refused += 1
        assert re.search("report could not be written .*No space left", str(error))
        assert all(path.read_bytes() == whole[path.name].read_bytes() for path in out.glob("*"))
        assert report.write(result, out).keys() == whole.keys()
    assert refused > 15
