"""The ablation: arms differ only in what they declare; a killed run ends with the same results."""

import csv
import json
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ablation_lab
import pytest
import torch
import yaml
from lab import CONTEXT, WIDTH, Shrink, tiny_denoiser

from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.demo.schedule import signal_and_noise
from facecdm.demo.unet import controlnet_of
from facecdm.errors import BadFile, FaceCDMError, Mismatch
from facecdm.evaluation.evaluate import Evaluation, Summary
from facecdm.hosts.diffusers.denoiser import DiffusersDenoiser
from facecdm.training.config import Config
from facecdm.training.rows import Prompt
from research.ablation import earlier
from research.ablation.arms import ARMS, NONE, TRIPLET, SamplingSettings, arm, plan, trained_as
from research.ablation.bases import Bases, FaceControlDenoiser
from research.ablation.chance import Chance
from research.ablation.costs import Costs, listing, measured
from research.ablation.experiment import jobs
from research.ablation.people import attributes_of, choose, conflicts
from research.ablation.results import MARKS, overview_table, put_into, with_exceptions
from research.ablation.scoring import Generated
from research.ablation.training import Lab

ROOT = Path(__file__).resolve().parents[2]
# How an arm's stages differ from the triplet's, in the real recipe.
DIFFERS = {
    "FaceID's design": {"bottleneck", "few_steps_from", "find_location", "train"},
    "FaceID's design, longer": {"bottleneck", "few_steps_from", "find_location", "train"},
    "InstantID's design": {"bottleneck", "few_steps_from", "find_location", "train", "drop_pose"},
    "InstantID's design, longer": {"bottleneck", "few_steps_from", "find_location", "train", "drop_pose"},
    "PuLID's alignment": {"background", "alignment"},
    "face stream": {"train"},
    "without interplay": {"train"},
    "token-wise router": set(),
    "κ learnt": {"train"},
    "one stage": {"stages", "learning_rate", "schedule", "identity_every"},
    "two stages": {"stages"},
    "without background loss": {"background"},
    "same photo": {"own_photo"},
    "without bottleneck": {"bottleneck"},
    "without sampled identity": {"few_steps"},
    "without face location": {"drop_pose", "few_steps_from", "find_location"},
    "without pose": set(),
}
SCALED = {"steps", "warmup"}


@pytest.fixture(scope="module")
def recipe():
    values = yaml.safe_load((ROOT / "research/ablation/recipe.yaml").read_text(encoding="utf-8"))
    return Config.model_validate(values)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    torch.set_num_threads(1)
    return ablation_lab.make_lab(tmp_path_factory.mktemp("arms"))


def pictures(stages) -> int:
    return sum(stage.steps * stage.batch for stage in stages)


def test_every_arm_differs_from_the_triplet_only_in_what_it_declares(recipe):
    triplet, kinds = {stage.name: stage.to_dict() for stage in plan(arm(TRIPLET), recipe, 0)}, {}
    for one in ARMS:
        if one.name == TRIPLET or not one.trains:
            continue
        stages = plan(trained_as(one), recipe, 0)
        found = {"stages"} if len(stages) < len(triplet) else set()
        for stage in stages:
            values = stage.to_dict()
            found |= {name for name, value in triplet[stage.name].items() if values[name] != value}
        kinds[one.name] = found - (SCALED if "stages" in found or one.length != 1 else set())
        assert pictures(stages) == pytest.approx(one.length * pictures(recipe.plan()), rel=0.01), one.name
        assert one.sampling == SamplingSettings() or one.of or not one.design.location
    assert kinds == DIFFERS


def test_one_stage_has_as_many_sampled_identity_losses(recipe):
    def count(stages):
        return sum(stage.steps // stage.identity_every for stage in stages if stage.identity and stage.few_steps)

    assert count(plan(arm("one stage"), recipe, 0)) == pytest.approx(count(plan(arm(TRIPLET), recipe, 0)), rel=0.06)


def test_all_arms_are_as_large_as_the_triplet(lab):
    trained = [one for one in ARMS if one.trains and not one.of and not one.design.face_control]
    weights = {one.name: lab.weights(one) for one in trained}
    large = weights.pop("without bottleneck")
    assert large > weights[TRIPLET], "the bottleneck spares weights"
    for name, count in weights.items():
        assert count == pytest.approx(weights[TRIPLET], rel=0.01), name
    adapter = lab.initial(arm("FaceID's design"), 0)
    assert set(adapter.streams) == {"face"} and adapter.config.face_tokens == 4
    assert len(adapter.streams["face"].gate.knots) == 1 and not adapter.config.spatial_tokens
    pulid = lab.initial(arm("PuLID's alignment"), 0)
    assert all(stream.kappa.item() == 1 for stream in pulid.streams.values())
    with pytest.raises(FaceCDMError, match="trains the pose ControlNet"):
        lab.weights(arm("InstantID's design"))


@pytest.fixture(scope="module")
def controlled():
    """Bases with a ControlNet of random weights."""
    unet = tiny_denoiser().network
    control = controlnet_of(unet)
    torch.manual_seed(1)
    for value in control.parameters():
        value.data.normal_(0, 0.05)
    parts = unet, Shrink(), *signal_and_noise(), "v", control.eval()
    return Bases(tiny_denoiser(), DiffusersDenoiser(*parts), FaceControlDenoiser(*parts))


def test_instantids_controlnet_reads_the_face_and_not_the_prompt(controlled, tmp_path):
    one = arm("InstantID's design")
    lab = Lab(controlled, ablation_lab.Data(), ablation_lab.RECIPE, tmp_path)
    assert lab.weights(one) == pytest.approx(lab.weights(arm(TRIPLET)), rel=0.02)
    adapter, on = lab.initial(one, 0), torch.ones(2, dtype=torch.bool)
    rng = torch.Generator().manual_seed(0)
    noisy, hint = torch.randn(2, 4, 8, 8, generator=rng), torch.rand(2, 3, 64, 64, generator=rng)
    prompt = Prompt(torch.randn(2, 7, CONTEXT, generator=rng))
    faces = torch.nn.functional.normalize(torch.randn(2, WIDTH, generator=rng), dim=1)

    def predict(denoiser, faces, on=on):
        with torch.no_grad():
            people = ReferenceBatch(faces, None, on, on).streams(adapter, prompt.states, torch.ones(2), torch.float32)
            return denoiser.predict(noisy, torch.full((2,), 500), prompt, people, hint)

    other = faces.flip(0)
    assert torch.equal(predict(controlled.posed, faces), predict(controlled.posed, other)), "the gates are zero"
    assert not torch.allclose(predict(controlled.face_control, faces), predict(controlled.face_control, other))
    dropped = predict(controlled.face_control, faces, ~on)
    assert torch.equal(dropped, predict(controlled.face_control, other, ~on))
    with torch.no_grad():
        unconditional = controlled.face_control.predict(noisy, torch.full((2,), 500), prompt, None, hint)
    assert torch.allclose(dropped, unconditional, atol=1e-5)


def labels() -> list[dict]:
    """Three women with four views each."""
    rows = []
    for person, age in enumerate(("old", "young", "young")):
        for view, (style, colour) in enumerate(
            (("long", "red"), ("bald", "black"), ("short", "black"), ("long", "red"))
        ):
            rows.append(
                {
                    "identity": f"val-{person:04d}",
                    "view": view,
                    "gender": "woman",
                    "age": age,
                    "hair_style": style,
                    "hair_colour": colour,
                    "expression": ("sad", "sad", "laughing", "sad")[view],
                    "background_colour": "blue",
                    "shirt_colour": "green",
                    "shirt_pattern": "plain" if view else "striped",
                }
            )
    return rows


def test_every_second_prompt_contradicts_the_reference():
    rows = labels()
    requests = choose(rows, [0, 4], 2)
    assert [person for person, _ in requests] == [0, 1, 0, 1]
    assert all(rows[row]["identity"] != rows[4 * person]["identity"] for person, row in requests)
    found = [conflicts(rows[row], rows[4 * person]) for person, row in requests]
    assert found[2] == ["expression", "hair_style", "hair_colour", "age"] == found[3]
    assert attributes_of(rows[2], rows[4]) == (
        "background: blue; shirt: green; expression: laughing / sad; hair_style: short / long; "
        "hair_colour: black / red; age: old / young"
    )
    assert attributes_of(rows[2], rows[4], judged=False) == "background: blue; shirt: green", "only colours are read"
    assert conflicts(rows[1], rows[0]) == ["hair_style"], "a bald head has no hair colour"
    assert "hair_colour" not in attributes_of(rows[1], rows[0]) and "shirt" not in attributes_of(rows[0], rows[4])


@pytest.mark.parametrize(
    ("measured", "column"),
    [(("adherence", "adherence, conflict"), "prompt adherence in conflict"), (("adherence",), "prompt adherence")],
)
def test_the_table_has_one_column_of_prompt_adherence(measured, column):
    summary = Summary(TRIPLET, 1, 1, {name: (0.5, 0.4, 0.6) for name in measured})
    table = overview_table(Evaluation([], [summary], [], []), Evaluation([], [], [], []), Chance())
    assert table.splitlines()[0] == f"| arm | {column} |"


def summary(condition: str, mean: float, difference: tuple[float, float, float] | None = None) -> Summary:
    name = "similarity to held out"
    values = {name: (mean, mean - 0.1, mean + 0.1)}
    return Summary(condition, 9, 9, values, {} if difference is None else {name: difference})


def test_a_difference_is_marked_if_trainings_do_not_differ_as_much_by_chance():
    trainings = [[summary("a", 0.1), summary("b", 0.3)], [summary("c", 0.5), summary("d", 0.7)]]
    chance = Chance.of([Evaluation([], own, [], []) for own in trainings], {TRIPLET: 2, "two": 2, "one": 1})
    name, t = "similarity to held out", 4.30265  # Student's t with two degrees of freedom
    assert chance.limits(1)[name] == pytest.approx(t * 0.02**0.5 * 1.5**0.5, rel=1e-5)
    assert chance.limits(2)[name] == pytest.approx(t * 0.02**0.5, rel=1e-5)
    assert chance.limits(0)[name] == pytest.approx(t * 0.02**0.5 * 0.5**0.5, rel=1e-5), "it has no training"
    rows = {"one": 0.7, "two": 0.7, "base": 0.44, "unsure": 9.0}
    means = [summary(one, 0.0) for one in rows]
    against = [summary(one, 0.0, (value, 0.1, 9.0)) for one, value in rows.items() if one != "unsure"]
    against.append(summary("unsure", 0.0, (9.0, -0.1, 20.0)))
    table = overview_table(Evaluation([], means, [], []), Evaluation([], against, [], []), chance)
    assert [line.endswith("* |") for line in table.splitlines()[2:]] == [False, True, True, False]
    assert Chance.of([], {TRIPLET: 1}).limits(1) == {}


def test_the_most_frequent_value_is_said_once():
    assert with_exceptions({"a": "6.7", "b": "24.6", "c": "6.7"}) == "6.7; *b* 24.6"


def test_the_list_has_every_arms_hours(lab):
    stages = {name: {"plain": seconds} for name, seconds in (("broad", 30.0), ("identity", 60.0), ("fine", 60.0))}
    costs = Costs({TRIPLET: stages}, {TRIPLET: 0.1}, 0.0, "a processor")
    text = listing(lab, jobs([TRIPLET, "FaceID's design"], 3, [0.5]), 10, 4, costs)
    minutes = 4 * (4 * 30 + 2 * 60 + 2 * 60) / 60
    hours = (3 * 60 * minutes + 10 * 4 * 4 * 0.1) / 3600
    (row,) = (line for line in text.splitlines() if line.startswith("| triplet"))
    assert row == f"| triplet | – | 3 | {lab.weights(arm(TRIPLET)) / 1e6:.2f} | 96 | {minutes:.0f} | {hours:.2f} |"
    assert "| FaceID's design | image: False; interplay: False" in text and "not measured" in text
    assert "a processor" in text


def table(folder: Path, name: str) -> dict[tuple, dict]:
    rows = csv.DictReader((folder / "tables" / name).open())
    columns = ("condition", "measure", "arm", "seed", "strength", "person")
    return {tuple(row.get(column) for column in columns): row for row in rows}


def test_a_run_adds_to_the_scores_of_another_machine(tmp_path):
    """The headline arms' first trainings are made there, and the second ones here."""
    torch.set_num_threads(1)
    here, there, whole, nothing = (tmp_path / name for name in ("here", "there", "whole", "nothing"))
    experiment = ablation_lab.experiment(whole, seeds=2)
    alone = experiment.run()
    assert measured(experiment).training.keys() == {"FaceID's design", TRIPLET}
    ablation_lab.experiment(there).run()
    known = earlier.read(there / "tables" / "people.csv")
    both = ablation_lab.experiment(here, known=known, seeds=2).run()
    assert len(list(here.rglob("done.json"))) == len(list((here / "pictures").iterdir())) == 2, "one more of each arm"
    for name in ("arms.csv", "against_triplet.csv", "trainings.csv", "strengths.csv", "people.csv"):
        mine, theirs = table(here, name), table(whole, name)
        assert mine.keys() == theirs.keys()
        for key, row in mine.items():
            for column, value in row.items():
                expected = theirs[key][column]
                assert value == expected or float(value) == pytest.approx(float(expected), abs=2e-5), (key, column)
    without_links = [
        [line for line in one.markdown().splitlines() if not line.startswith("!")] for one in (both, alone)
    ]
    assert without_links[0] == without_links[1]
    differs = {key[0]: bool(row["difference"]) for key, row in table(whole, "trainings.csv").items()}
    assert differs == {f"{name}, seed {seed}": seed == 1 for name in ablation_lab.ARMS for seed in (0, 1)}
    assert "Trainings: *FaceID's design* 2, *triplet* 2, others one." in both.markdown()
    assert "(sheet.jpg)" in both.markdown()
    with_sheet = files(here, "sheet.jpg")
    (here / "sheet.jpg").unlink()
    ablation_lab.experiment(here, known=earlier.read(here / "tables" / "people.csv"), seeds=2).run()
    assert files(here, "sheet.jpg") == with_sheet and with_sheet, "its images are there"
    done = ablation_lab.experiment(nothing, known=earlier.read(here / "tables" / "people.csv"), seeds=2).run()
    assert not (nothing / "pictures").exists() and "sheet.jpg" not in done.markdown()


def test_an_image_that_cannot_be_measured_is_not_left_out(tmp_path):
    """An arm would be compared by fewer images than the others."""
    one = ablation_lab.experiment(tmp_path, [NONE])
    views, broken = sorted((ablation_lab.ROOT / "tests" / "assets" / "0005").glob("*.webp")), tmp_path / "no.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(FaceCDMError, match="no identity/0/None: 1 picture left out: .*no.png cannot be read"):
        one.scorer.score(Generated(NONE, 0, [*views[:3], broken]))


def test_earlier_scores_must_be_those_of_the_same_experiment(tmp_path):
    torch.set_num_threads(1)
    one = ablation_lab.experiment(tmp_path, [NONE])
    one.run()
    path = tmp_path / "tables" / "people.csv"
    known, text = earlier.read(path), path.read_text()
    known.generated[:] = [replace(known.generated[0], fingerprint="another")]
    with pytest.raises(Mismatch, match="no identity, seed 0, were made with another recipe"):
        ablation_lab.experiment(tmp_path, [NONE], known).run()
    head, five, six = text.splitlines()
    path.write_text(f"{head}\n{five}\n")
    with pytest.raises(Mismatch, match="no identity, seed 0, lack six"):
        ablation_lab.experiment(tmp_path, [NONE], earlier.read(path)).run()
    for bad, message in (
        ("arm,seed\ntriplet,0\n", "its first columns are not fingerprint"),
        (f"{head}\n", "it has no rows"),
        (f"{head}\n{five}\n{six}\n{five}\n", "line 4 repeats five of no identity"),
        (f"{head}\n{five.rpartition(',')[0]},nan\n", "line 2 has a value that is not finite"),
    ):
        path.write_text(bad)
        with pytest.raises(BadFile, match=message):
            earlier.read(path)


def killed(folder: Path, *when: int) -> None:
    done = subprocess.run(
        [sys.executable, ablation_lab.__file__, folder, *map(str, when)], capture_output=True, text=True, timeout=550
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_run_killed_in_a_training_and_in_sampling_gives_the_same_results(tmp_path):
    torch.set_num_threads(1)
    whole, twice = tmp_path / "whole", tmp_path / "killed"
    ablation_lab.experiment(whole).run()
    killed(twice, ablation_lab.STEPS + 3, 10**6)  # in the second training
    assert len(list(twice.rglob("done.json"))) == 1 and list(twice.rglob("*.pt"))
    before = {path: path.stat().st_mtime_ns for path in (twice / "pictures").rglob("*.png")}
    killed(twice, 10**6, 2)  # the first arms have their images: this is the triplet's second
    results = ablation_lab.experiment(twice).run()
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items())
    for pattern in ("tables/*.csv", "results.md", "pictures/*/*.png", "sheet.jpg"):
        assert files(whole, pattern) == files(twice, pattern), pattern
    assert json.loads((whole / "results.json").read_text()) == json.loads((twice / "results.json").read_text())
    assert not list(twice.rglob("*.pt"))
    table = list(csv.DictReader((twice / "tables" / "arms.csv").open()))
    similarity = {row["condition"]: float(row["mean"]) for row in table if row["measure"] == "similarity to held out"}
    assert list(similarity) == [NONE, *ablation_lab.ARMS] and len(set(similarity.values())) == 3, (
        "each arm has its own images"
    )
    text = results.markdown()
    assert "One training of each arm." in text
    assert "**Partial**" in text and "token-wise router" in text and "| triplet | " in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") <= 7 for line in rows), "at most six columns"
    assert rows[0].startswith("| arm | identity similarity | prompt adherence in conflict |")
    assert all(" [" in cell for line in rows[2:] for cell in line.split("|")[2:4]), "every mean has an interval"
    adherence = [row for row in table if row["measure"] == "adherence, conflict"]
    assert len(adherence) == 3 and all(0 <= float(row["mean"]) <= 1 for row in adherence)
    real = list(csv.DictReader((twice / "tables" / "real_pictures.csv").open()))
    assert {row["condition"] for row in real} == {"real pictures"}
    lines = {row["condition"] for row in csv.DictReader((twice / "tables" / "strengths.csv").open())}
    arms = ("FaceID's design", "triplet")
    assert lines == {"no identity, strength 0", *(f"{arm}, strength {at}" for arm in arms for at in ("0.5", "1"))}

    document = tmp_path / "results.md"
    document.write_text(f"# Results\n{MARKS[0]}\nthe old results\n{MARKS[1]}\nThe end.\n")
    put_into(document, twice)
    assert "the old results" not in document.read_text() and document.read_text().endswith("The end.\n")
    linked = text.replace("(sheet.jpg)", "(results-sheet.jpg)").replace("(strength.png)", "(results-strength.png)")
    assert linked.strip() in document.read_text() and (tmp_path / "results-strength.png").stat().st_size
    assert (tmp_path / "results" / "arms.csv").read_bytes() == (twice / "tables" / "arms.csv").read_bytes()
    assert (tmp_path / "results-sheet.jpg").read_bytes() == (twice / "sheet.jpg").read_bytes()
    (link,) = (line for line in linked.splitlines() if "(results-sheet.jpg)" in line)
    (twice / "results.md").write_text("no images here\n")
    put_into(document, twice)
    assert document.read_text().count(link) == 1 and "no images here" in document.read_text()
    put_into(document, twice)
    assert document.read_text().count(link) == 1
