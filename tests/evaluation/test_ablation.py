"""The ablation: arms differ in what they say and in nothing else; a run that is killed ends as one that is not."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import ablation_lab
import pytest
import torch
from ablating import hearing
from ablating.arms import ARMS, NONE, TRIPLET, Drawing, arm, trained_as
from ablating.results import MARKS, put_into
from ablating.training import begin

from facecdm.training.learner import Learner
from facecdm.training.lora import Lora

# In what an arm differs from the triplet: weights that learn, settings of the stages that both have, stages, drawing.
DIFFERS = {
    "face alone": {"weights", "bottleneck", "train"},
    "face alone, our gates": {"weights"},
    "without interplay": {"weights"},
    "token-wise router": {"weights"},
    "κ 0": {"drawing"},
    "κ 1": {"drawing"},
    "face shown alone": {"drawing"},
    "one stage": {"stages"},
    "two stages": {"stages"},
    "same photo": {"own_photo"},
    "without bottleneck": {"weights", "bottleneck"},
    "without places": set(),  # but for the values of its first weights
    "untold": {"drawing"},
    "without pose": {"drawing"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    torch.set_num_threads(1)
    return ablation_lab.make_lab(tmp_path_factory.mktemp("arms"))


def learnt(lab, one) -> dict[str, tuple]:
    """Shapes by name of all that learns in any stage."""
    shapes = {}
    for stage in lab.stages(one, 0):
        learner = Learner(begin(one.design, lab, 0), Lora(), lab.denoiser.linears(), stage, torch.device("cpu"))
        shapes |= {name: tuple(value.shape) for name, value in learner.named.items()}
    return shapes


def test_every_arm_differs_from_the_triplet_in_what_it_says_alone(lab):
    triplet = arm(TRIPLET)
    ours, reference = lab.stages(triplet, 0), learnt(lab, triplet)
    for one in ARMS:
        if one.name == TRIPLET or not one.trains:
            continue
        source, found = trained_as(one), set()
        stages = {stage.name: stage for stage in lab.stages(source, 0)}
        if stages.keys() != {stage.name for stage in ours}:
            found.add("stages")
        else:
            assert learnt(lab, source) == reference or "weights" in DIFFERS[one.name], one.name
        if learnt(lab, source) != reference and "stages" not in found:
            found.add("weights")
        for stage in ours:
            if stage.name in stages:
                other = stages[stage.name].to_dict()
                found |= {name for name, value in stage.to_dict().items() if other[name] != value} - (
                    {"steps", "warmup", "identity_ramp"} if "stages" in found else set()
                )
        if one.drawing != Drawing():
            found.add("drawing")
        assert found == DIFFERS[one.name], one.name
        assert sum(stage.steps for stage in stages.values()) == ablation_lab.STEPS, one.name
        assert one.drawing == Drawing() or one.of, "what differs in the drawing alone reuses a training"


def test_the_face_alone_is_as_large_as_the_triplet(lab):
    def size(name):
        adapter = begin(arm(name).design, lab, 0)
        return sum(value.numel() for key, value in adapter.named_parameters() if ".restore." not in key)

    assert size("face alone") == pytest.approx(size(TRIPLET), rel=0.01)
    assert size("face alone, our gates") < 0.8 * size(TRIPLET)
    adapter = begin(arm("face alone").design, lab, 0)
    assert set(adapter.streams) == {"face"} and len(adapter.streams["face"].gate.knots) == 1


def test_an_untrained_adapter_hears_nobody_and_what_was_asked_once_is_kept(lab, tmp_path):
    from ablating.training import Trained
    from twins import stir

    cast = ablation_lab.experiment(tmp_path / "experiment").artist.cast
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6], [0.6, 0.6]]]).repeat(2, 1, 1)

    def linear(missed, keypoints):
        assert torch.equal(keypoints, points)
        return missed.flatten(1) / missed[0].numel() ** 0.5

    ear = hearing.Ear(lab.denoiser, linear, cast, latents, points, tmp_path / "heard")
    new = begin(arm(TRIPLET).design, lab, 0)
    silent = ear.ask(Trained("new", new, Lora(), {}))
    assert list(silent) == [str(level) for level in hearing.LEVELS]
    assert all(found["right"] == found["wrong"] == found["nobody"] for found in silent.values())
    loud = ear.ask(Trained("stirred", stir(new), Lora(), {}))
    assert all(len({tuple(found[who]) for who in found}) == 3 for found in loud.values())
    assert loud["900"]["nobody"] == pytest.approx(silent["900"]["nobody"])
    assert ear.ask(Trained("stirred", None, None, {})) == loud, "read from disk"
    text = hearing.against({"new": silent, "stirred": loud}, "new", cast.names)
    gain = sum(b - a for a, b in zip(loud["700"]["right"], loud["700"]["wrong"])) / 2
    assert text.splitlines()[-1].startswith("| stirred |") and f"{gain:+.3f} [" in text
    told = hearing.against(
        {name + one: heard for name, heard in (("new", silent), ("stirred", loud)) for one in ("", hearing.TOLD)},
        "new",
        cast.names,
    )
    assert f"| stirred{hearing.TOLD} | {text.splitlines()[-1].split('|', 2)[2].strip()}" in told


def killed(folder: Path, *when: int) -> None:
    done = subprocess.run(
        [sys.executable, ablation_lab.__file__, folder, *map(str, when)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-3000:]


def files(folder: Path, pattern: str) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob(pattern)}


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
def test_a_run_that_was_killed_in_a_training_and_in_a_drawing_gives_the_same_table(tmp_path):
    torch.set_num_threads(1)
    whole, twice = tmp_path / "whole", tmp_path / "killed"
    ablation_lab.experiment(whole).run()
    killed(twice, ablation_lab.STEPS + 3, 10**6)  # in the second training
    assert len(list(twice.rglob("done.json"))) == 1 and list(twice.rglob("*.pt"))
    before = {path: path.stat().st_mtime_ns for path in twice.rglob("*.png")}
    killed(twice, 10**6, 2)  # the first arms are drawn already: this is the triplet's second picture
    results = ablation_lab.experiment(twice).run()
    assert before and all(path.stat().st_mtime_ns == time for path, time in before.items() if "pictures" in str(path))
    for pattern in ("table.csv", "results.md", "*.png", "sheet.jpg"):
        assert files(whole, pattern) == files(twice, pattern), pattern
    assert json.loads((whole / "results.json").read_text()) == json.loads((twice / "results.json").read_text())
    assert not list(twice.rglob("*.pt"))
    table = list(csv.DictReader((twice / "table.csv").open()))
    likeness = {row["condition"]: float(row["mean"]) for row in table if row["measure"] == "similarity to held out"}
    assert list(likeness) == [NONE, *ablation_lab.ARMS] and len(set(likeness.values())) == 4, "each arm draws its own"
    text = results.markdown()
    assert "**Partial**" in text and "token-wise router" in text and "*triplet* against *face alone*" in text

    document = tmp_path / "results.md"
    document.write_text(f"# Results\n{MARKS[0]}\nwhat stood here\n{MARKS[1]}\nThe end.\n")
    put_into(document, twice)
    assert "what stood here" not in document.read_text() and document.read_text().endswith("The end.\n")
    assert text.replace("(sheet.jpg)", "(results-sheet.jpg)").strip() in document.read_text()
    assert (tmp_path / "results-sheet.jpg").read_bytes() == (twice / "sheet.jpg").read_bytes()
