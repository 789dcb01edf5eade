"""The table, the best images and the sheets of a batch; its command line."""

import asyncio
import csv
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image
from standin import INFO, NODES, made, make_plan

from facecdm.apps.batch.execution.journal import Journal
from facecdm.apps.batch.plan.check import check
from facecdm.apps.batch.plan.jobs import build
from facecdm.apps.batch.results import sheets
from facecdm.apps.batch.results.best import keep_best
from facecdm.apps.batch.results.measure import Measure
from facecdm.apps.batch.results.sheets import write_sheets
from facecdm.apps.batch.results.table import write_table
from facecdm.apps.batch.start import run_async
from facecdm.cli import main


@pytest.fixture
def finished(tmp_path):
    """Two people, two prompts, three seeds. Similarity falls with the seed; the images of seed 1 show no face."""
    for name in ("ada", "bob"):
        Image.new("RGB", (40, 30), "red").save(tmp_path / f"{name}.png")
    plan = make_plan(
        tmp_path,
        name="{face}/{prompt#}-{seed}",
        person="face",
        keep_best=1,
        inputs={"face": "Draw.image", "prompt": "Draw.text", "seed": "Draw.seed"},
        jobs=[{"face": ["ada.png", "bob.png"]}, {"prompt": ["one", '=two, \n"quoted"']}, {"seed": [1, 2, 3]}],
    )
    batch, folder = build(check(plan, {"here": INFO})), tmp_path / "out"
    with Journal(folder, batch.record(), resume=False) as journal:
        for job in batch.jobs[:-1]:
            (path,) = journal.claim(job.number, [job.name], [".png"], folder)
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (64, 32), "green").save(folder / path)
            journal.done(job.number, "here", 1.5)
            seed = job.row["seed"]
            journal.measured(journal.files(job.number)[0], None if seed == 1 else 1 / seed, int(seed > 1), None)
        journal.failed(12, "node 5 failed:\nno \x1b[1m memory")
        yield batch, journal, folder


def kept(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*.png")}


def test_the_best_stay(finished):
    batch, journal, folder = finished
    keep_best(batch, journal, folder)
    best = {f"{face}/{prompt}-2.png" for face in ("ada", "bob") for prompt in (1, 2)}
    assert {name for name in kept(folder) if not name.startswith("not-kept")} == best
    assert len(kept(folder)) == 11
    object.__setattr__(batch, "plan", batch.plan.model_copy(update={"keep_best": 2}))
    keep_best(batch, journal, folder)
    assert {"ada/1-3.png", "bob/1-3.png", "ada/2-3.png", "not-kept/ada/1-1.png"} <= kept(folder)
    assert len(kept(folder)) == 11


def test_images_without_an_identity_stay(finished):
    batch, journal, folder = finished
    keep_best(batch, journal, folder)
    for file in journal.files():
        if file.path.startswith("ada"):
            journal.measured(file, None, 0, None)
    notes = keep_best(batch, journal, folder)
    assert notes == ["keep_best: all 6 pictures of ada.png stay: no identity is measured to choose among them"]
    assert {name for name in kept(folder) if "ada" in name} == {f"ada/{p}-{s}.png" for p in (1, 2) for s in (1, 2, 3)}
    assert {name for name in kept(folder) if name.startswith("bob")} == {"bob/1-2.png", "bob/2-2.png"}


def test_images_deleted_from_not_kept_are_reported(finished):
    batch, journal, folder = finished
    keep_best(batch, journal, folder)
    shutil.rmtree(folder / "not-kept")
    assert keep_best(batch, journal, folder) == []
    object.__setattr__(batch, "plan", batch.plan.model_copy(update={"keep_best": 2}))
    assert keep_best(batch, journal, folder) == ["keep_best: 4 pictures are no longer in not-kept"]
    assert sum(file.kept is None for file in journal.files()) == 4 == len(kept(folder))


def test_a_reference_that_is_gone_is_a_note(finished, tmp_path):
    (tmp_path / "ada.png").unlink()
    meter = SimpleNamespace(pack="buffalo_l", add_reference=lambda name, picture: None)
    measure = Measure(finished[0], meter)
    assert measure.has_people and measure.settings == "buffalo_l, face"
    assert len(measure.notes) == 1 and measure.notes[0].startswith("identity is not measured for ada.png: ")


def test_an_image_is_measured_as_its_exif_turns_it(finished, tmp_path):
    class Meter:
        pack = "buffalo_l"

        def add_reference(self, name, picture):
            pass

        def measure(self, name, picture):
            return float(picture.width), 1, 1.0

    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "turned.png", exif=exif)
    assert Measure(finished[0], Meter()).measure(tmp_path / "turned.png", None).identity == 4.0


def test_a_transparent_image_is_measured_and_shown_on_white(finished, tmp_path):
    meter = SimpleNamespace(
        pack="buffalo_l",
        add_reference=lambda name, picture: None,
        measure=lambda name, picture: (float(picture.getpixel((0, 0))[0]), 1, 1.0),
    )
    Image.new("RGBA", (8, 4)).save(tmp_path / "clear.png")
    assert Measure(finished[0], meter).measure(tmp_path / "clear.png", None).identity == 255.0
    assert sheets._thumbnail(tmp_path / "clear.png").getpixel((0, 0)) == (255, 255, 255)


def test_an_interrupted_move_is_completed(finished, monkeypatch):
    batch, journal, folder = finished
    monkeypatch.setattr(Journal, "moved", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        keep_best(batch, journal, folder)
    monkeypatch.undo()
    keep_best(batch, journal, folder)
    assert len(kept(folder)) == 11 and len([name for name in kept(folder) if not name.startswith("not-kept")]) == 4
    assert all((folder / (file.kept or file.path)).is_file() for file in journal.files())


def test_the_table_has_every_parameter(finished):
    batch, journal, folder = finished
    keep_best(batch, journal, folder)
    write_table(batch, journal, folder)
    rows = list(csv.DictReader((folder / "results.csv").open(encoding="utf-8", newline="")))
    assert len(rows) == 12 and rows[3]["prompt"] == '=two, \n"quoted"' and rows[0]["face"].endswith("ada.png")
    assert [row["identity"] for row in rows[:3]] == ["", "0.5", "0.3333"] and rows[0]["faces"] == "0"
    assert rows[0]["file"] == "not-kept/ada/1-1.png" and rows[1]["file"] == "ada/1-2.png"
    assert rows[11]["state"] == "failed" and rows[11]["file"] == ""
    assert rows[11]["message"].startswith("node 5 failed: no")
    assert rows[0]["Draw it.style"] == "plain" and rows[0]["Save.filename_prefix"] == "x"


def test_a_sheet_for_each_person(finished):
    batch, journal, folder = finished
    write_sheets(batch, journal, folder)
    sheets = {path.name: Image.open(path) for path in (folder / "sheets").iterdir()}
    assert sheets.keys() == {"ada.jpg", "bob.jpg"}
    # The reference takes one column, and each of the three wide pictures two.
    assert sheets["ada.jpg"].width == 2 * 36 + 7 * 192 + 6 * 22
    reference, first = (sheets["ada.jpg"].getpixel((36 + 96 + x, 114 + 96)) for x in (0, 214))
    assert reference[0] > 200 > 100 > reference[1] and first[1] > 100 > 50 > first[0]


def test_sheets_without_a_person_and_with_pages(tmp_path):
    batch = build(check(make_plan(tmp_path, name="{job}", seeds=200), {"here": INFO}))
    with Journal(tmp_path / "out", batch.record(), resume=False) as journal:
        write_sheets(batch, journal, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out" / "sheets").iterdir()} == {
        "all.jpg",
        "all page 2.jpg",
        "all page 3.jpg",
    }


def sheets_of(folder: Path, people: list[str], seeds: int = 1) -> set[str]:
    jobs = [{"face": people}, {"seed": {"from": 0, "count": seeds}}]
    inputs = {"face": "Draw.image", "seed": "Draw.seed"}
    batch = build(check(make_plan(folder, name="{job}", person="face", inputs=inputs, jobs=jobs), {"here": INFO}))
    with Journal(folder / "out", batch.record(), resume=False) as journal:
        write_sheets(batch, journal, folder / "out")
    return {path.name for path in (folder / "out" / "sheets").iterdir()}


def test_no_two_people_share_a_sheet(tmp_path):
    for name in ("p/ada.png", "q/ada.png", "r/ada-2.png", "s/ADA.png"):
        (tmp_path / name).parent.mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / name)
    people = ["p/ada.png", "q/ada.png", "r/ada-2.png", "s/ADA.png", "x/eve.png", "y/eve.png"]  # eve: on the server
    names = sheets_of(tmp_path, people)
    assert names == {"ada.jpg", "ada-2.jpg", "ada-2-2.jpg", "ADA-3.jpg", "eve.png.jpg", "eve.png-2.jpg"}


def test_pages_of_a_long_name_are_files_of_their_own(tmp_path):
    name = f"{'x' * 200}.png"
    Image.new("RGB", (8, 8)).save(tmp_path / name)
    names = sheets_of(tmp_path, [name], seeds=200)
    assert len(names) == 3 and sum(" page " in name for name in names) == 2


# ---- the command ----


def test_a_table_on_the_command_line(run_scenario, tmp_path, capsys):
    import json

    (tmp_path / "w.json").write_text(json.dumps(NODES))
    (tmp_path / "plan.csv").write_text("Draw it.seed,Draw it.text\n1,a\n2,b\n")

    async def scenario(server):
        def call(*more):
            return main(
                [
                    "batch",
                    str(tmp_path / "plan.csv"),
                    "--workflow",
                    str(tmp_path / "w.json"),
                    "--server",
                    server.address,
                    "--output",
                    str(tmp_path / "out"),
                    *more,
                ]
            )

        assert await asyncio.to_thread(call, "--check") == 0 and not server.submitted
        assert "2 jobs, 0 files to upload; nothing was queued\n  1\n  2\n" in capsys.readouterr().out
        assert await asyncio.to_thread(call) == 0
        assert "2 of 2 jobs are done" in capsys.readouterr().out
        assert await asyncio.to_thread(call) == 1 and "--resume" in capsys.readouterr().err
        server.behave = lambda nodes: 1 / 0
        (tmp_path / "plan.csv").write_text("Draw it.seed,Draw it.text\n3,a\n")
        assert await asyncio.to_thread(call, "--output", str(tmp_path / "other")) == 1
        message = capsys.readouterr()
        assert (
            "0 of 1 jobs are done" in message.out
            and "job 1 is set aside: node 1 (Draw) failed: division" in message.err
        )

    run_scenario(scenario)
    assert made(tmp_path) == {1: 1, 2: 2}


def test_keep_best_needs_a_face_pack_before_anything_is_queued(run_scenario, tmp_path):
    from facecdm.apps.batch.errors import PlanMistake

    async def scenario(server):
        with pytest.raises(PlanMistake, match="keep_best: .*--base"):
            await run_async(make_plan(tmp_path, server.address, keep_best=1))
        return server.submitted

    assert run_scenario(scenario) == []
