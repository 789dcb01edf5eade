"""The journal: states survive a kill, one process at a time, full disks."""

import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facecdm.apps.batch.errors import DiskFull, JournalMistake
from facecdm.apps.batch.execution.journal import DONE, FAILED, WAITING, Journal, differences, recorded_jobs

ROOT = Path(__file__).resolve().parents[4]


def record(jobs: int = 3, **inputs) -> dict:
    return {
        "workflow": {"1": {"class_type": "K", "inputs": {"steps": 4, **inputs}}},
        "jobs": [{"name": str(number), "seed": number} for number in range(jobs)],
    }


def test_the_states_of_jobs_and_files(tmp_path):
    with Journal(tmp_path, record(), resume=False) as journal:
        journal.queued(1, "here", "id-1")
        assert journal.claim(1, ["a/x", "a/x-2"], [".png", ".mp4"], tmp_path) == ["a/x.png", "a/x-2.mp4"]
        journal.done(1, "here", 2.5)
        journal.queued(2, "here", "id-2")
        journal.tried(3, "no")
        journal.failed(3, "no")
    with Journal(tmp_path, record(), resume=True) as journal:
        one, two, three = journal.entries()
        assert (one.state, one.server, one.seconds, one.prompt_id, one.attempts) == (DONE, "here", 2.5, None, 1)
        assert (two.state, two.server, two.prompt_id) == (WAITING, "here", "id-2")
        assert (three.state, three.message, three.attempts) == (FAILED, "no", 1)
        assert [file.path for file in journal.files()] == ["a/x.png", "a/x-2.mp4"]
        journal.measured(journal.files(1)[0], 0.5, 2, 0.9)
        journal.moved(journal.files(1)[0], "not-kept/a/x.png")
        file = journal.files()[0]
        assert (file.measured, file.identity, file.faces, file.detection) == (True, 0.5, 2, 0.9)
        assert file.kept == "not-kept/a/x.png"
        journal.retry_failed()
        assert journal.entries()[2].state == WAITING


def test_a_journal_of_an_earlier_release_opens(tmp_path):
    """It lacks the column for warnings, and what was measured with is not known."""
    with Journal(tmp_path, record(), resume=False) as journal:
        journal.done(1, "here", 1.0, ["no face\nfound", "too small"])
        assert journal.entries()[0].warnings == "no face found\ntoo small"
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.execute("ALTER TABLE jobs DROP COLUMN warnings")
    db.close()
    for _ in range(2):
        with Journal(tmp_path, record(), resume=True) as journal:
            assert [entry.warnings for entry in journal.entries()] == ["", "", ""]
            journal.done(2, "here", 1.0, ["too small"])
            assert journal.entries()[1].warnings == "too small"
            journal.free(2)
            journal._set(2, warnings="")


def test_other_settings_forget_the_measurements(tmp_path):
    with Journal(tmp_path, record(), resume=False) as journal:
        journal.claim(1, ["x"], [".png"], tmp_path)
        journal.done(1, "here", 1.0)
        journal.measured(journal.files()[0], 0.5, 2, 0.9)
        assert not journal.measure_with("buffalo_l, person") and journal.files()[0].measured
    with Journal(tmp_path, record(), resume=True) as journal:
        assert not journal.measure_with("buffalo_l, person") and journal.files()[0].identity == 0.5
        assert journal.measure_with("antelopev2, person")
        file = journal.files()[0]
        assert (file.measured, file.identity, file.faces, file.detection) == (False, None, None, None)
        assert not journal.measure_with("buffalo_l, person"), "nothing is measured"


def test_a_file_may_be_lost_and_come_back(tmp_path):
    def jobs(*texts):
        return {"workflow": {}, "jobs": [{"name": str(number), "person": text} for number, text in enumerate(texts)]}

    lost, one, other = "ada.png (unreadable)", f"ada.png (SHA-256 {1:064})", f"ada.png (SHA-256 {2:064})"
    with Journal(tmp_path, jobs(one, lost), resume=False) as journal:
        journal.done(1, "here", 1.0)
    Journal(tmp_path, jobs(lost, other), resume=True).__exit__()
    assert [job["person"] for job in recorded_jobs(tmp_path)] == [one, other]
    for changed in ((other, other), (one, one), ("bob.png (unreadable)", other)):
        with pytest.raises(JournalMistake, match="person is"):
            Journal(tmp_path, jobs(*changed), resume=True)
    assert recorded_jobs(tmp_path / "none") == []


def test_paths_are_claimed_once_and_existing_files_stay(tmp_path):
    (tmp_path / "x.png").write_text("not ours")
    with Journal(tmp_path, record(), resume=False) as journal:
        assert journal.claim(1, ["x"], [".png"], tmp_path) == ["x_2.png"]
        (tmp_path / "x_2.png").write_text("ours, cut off")
        assert journal.claim(1, ["x"], [".png"], tmp_path) == ["x_2.png"]
        assert journal.claim(2, ["X"], [".PNG"], tmp_path) in (["X_3.PNG"], ["X.PNG"])  # is the disk case sensitive?
        assert journal.claim(1, ["x"], [".mp4"], tmp_path) == ["x.mp4"]
        assert "x.mp4" in journal.unfinished_files() and "x_2.png" not in journal.unfinished_files()


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(1, 3), st.sampled_from(["a", "A", "b", "a_2"]), st.integers(1, 3)), max_size=12))
def test_no_two_jobs_share_a_path(tmp_path_factory, claims):
    folder = tmp_path_factory.mktemp("journal")
    with Journal(folder, record(), resume=False) as journal:
        held = {}
        for job, name, count in claims:
            names = [name, *(f"{name}-{n}" for n in range(2, count + 1))]
            held[job] = journal.claim(job, names, [".png"] * count, folder)
            assert len(held[job]) == count
        paths = [path.casefold() for found in held.values() for path in found]
        assert len(paths) == len(set(paths))


def test_the_lock_ends_with_its_process(tmp_path):
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from facecdm.apps.batch.execution.journal import Journal\n"
        "j = Journal(Path(sys.argv[1]), {'workflow': {}, 'jobs': [{}]}, False)\n"
        "j.queued(1, 'here', 'x')\nprint('open', flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", script, tmp_path, ROOT], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "open\n"
    plan = {"workflow": {}, "jobs": [{}]}
    with pytest.raises(JournalMistake, match="another batch works in"):
        Journal(tmp_path, plan, resume=True)
    process.kill()
    process.communicate()
    with Journal(tmp_path, plan, resume=True) as journal:
        assert journal.entries()[0].prompt_id == "x"


def test_a_plan_may_change_before_the_first_job_is_queued(tmp_path):
    tmp_path = tmp_path / "new" / "folder"
    Journal(tmp_path, record(3), resume=False).__exit__()
    with Journal(tmp_path, record(5), resume=False) as journal:
        assert len(journal.entries()) == 5
        journal.queued(1, "here", "x")
    with pytest.raises(JournalMistake, match="0 of 5 jobs of this plan: resume with --resume"):
        Journal(tmp_path, record(5), resume=False)
    with pytest.raises(JournalMistake, match="there are 3, there were 5"):
        Journal(tmp_path, record(3), resume=True)


def test_a_full_disk_changes_nothing(tmp_path):
    with Journal(tmp_path, record(), resume=False) as journal:
        journal.queued(1, "here", "x")
        pages = journal._db.execute("PRAGMA page_count").fetchone()[0]
        journal._db.execute(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(DiskFull, match="free some space"):
            journal.failed(1, "x" * 100_000)
        assert journal.entries()[0].state == WAITING and not journal._db.in_transaction
        journal._db.execute("PRAGMA max_page_count = 1000000")
        journal.failed(1, "x" * 100_000)
        assert journal.entries()[0].state == FAILED


def test_invalid_journals(tmp_path):
    (tmp_path / "journal.sqlite").write_text("no database, but a text that is long enough to look at" * 100)
    with pytest.raises(JournalMistake, match="is no journal"):
        Journal(tmp_path, record(), resume=True)
    other = tmp_path / "other"
    other.mkdir()
    db = sqlite3.connect(other / "journal.sqlite")
    db.execute("CREATE TABLE mine (x)")
    db.close()
    with pytest.raises(JournalMistake):
        Journal(other, record(), resume=True)
    (tmp_path / "file").touch()
    with pytest.raises(JournalMistake, match="cannot be written"):
        Journal(tmp_path / "file", record(), resume=True)


@pytest.mark.parametrize("version", ["0", "2"])
def test_a_journal_of_another_version_is_refused(tmp_path, version):
    with Journal(tmp_path, record(), resume=False) as journal:
        journal.queued(1, "here", "x")
    db = sqlite3.connect(tmp_path / "journal.sqlite")
    db.execute("UPDATE facts SET value = ? WHERE name = 'version'", (version,))
    db.commit()
    db.close()
    with pytest.raises(JournalMistake, match="written by another version"):
        Journal(tmp_path, record(), resume=True)


def test_a_freed_job_waits_and_only_a_lost_server_is_counted(tmp_path):
    with Journal(tmp_path, record(), resume=False) as journal:
        for lost in (0, 1):
            journal.queued(1, "here", "x")
            journal.free(1, **{"lost": True} if lost else {})
            entry = journal.entries()[0]
            assert (entry.state, entry.server, entry.prompt_id, entry.losses) == (WAITING, None, None, lost)


def test_differences_name_what_changed():
    new = record(2, steps=8)
    new["workflow"]["2"] = {"class_type": "S", "inputs": {}}
    new["jobs"][1]["seed"] = 9
    assert differences(record(3), new) == [
        "workflow: K.steps is 8, it was 4",
        "workflow: node 2 is new",
        "jobs: there are 2, there were 3",
        "job 2: seed is 9, it was 1",
    ]
    assert differences(record(), record()) == []
    workflow = {"1": {"class_type": "B", "inputs": {}}, "2": {"class_type": "S", "inputs": {}}}
    for kind in ("A", "C"):
        other = {"1": {"class_type": kind, "inputs": {}}, "3": {"class_type": "S", "inputs": {"x": 1}}}
        assert differences({"workflow": workflow, "jobs": []}, {"workflow": other, "jobs": []}) == [
            f"workflow: node 1 is {kind}, it was B",
            "workflow: node 2 is gone",
            "workflow: node 3 is new",
        ]
    many = differences(record(50), {**record(50), "jobs": [{"name": "x"}] * 50})
    assert len(many) == 9 and many[-1].startswith("… and")


def test_long_values_are_cut_in_differences():
    for length, shown in ((88, '"' + "a" * 88 + '"'), (89, '"' + "a" * 59 + "…" + "a" * 27 + '"')):
        (line,) = differences(record(steps=4), record(steps="a" * length))
        assert line == f"workflow: K.steps is {shown}, it was 4"


def test_another_mapping_of_the_same_values_is_refused(tmp_path):
    record = {"workflow": {}, "inputs": {"cfg": ["3.cfg"]}, "jobs": [{"name": "a", "cfg": 4}]}
    with Journal(tmp_path, record, resume=False) as journal:
        journal.queued(1, "here", "id")
    with pytest.raises(JournalMistake, match=r"cfg goes to .*3\.denoise.*, it went to .*3\.cfg"):
        Journal(tmp_path, record | {"inputs": {"cfg": ["3.denoise"]}}, resume=True)


def test_lone_surrogates_are_replaced(tmp_path):
    with Journal(tmp_path, {"workflow": {}, "inputs": {}, "jobs": [{"name": "a"}]}, resume=False) as journal:
        journal.failed(1, "no file \udcff here")
        assert "no file" in journal.entries()[0].message
