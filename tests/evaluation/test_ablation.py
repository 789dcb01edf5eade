"""The ablation: arms differ only in what they declare; a killed run ends with the same results."""

import csv
import json
import signal
import subprocess
import sys
from pathlib import Path

import ablation_lab
import pytest
import torch
from twins import stir

from facecdm.training.learner import Learner
from facecdm.training.lora import Lora
from research.ablation import conditioning
from research.ablation.arms import ARMS, NONE, TRIPLET, SamplingSettings, arm, trained_as
from research.ablation.results import MARKS, put_into
from research.ablation.training import Trained, initialise

# How an arm differs from the triplet: trained weights, settings of the stages that both have, stages, sampling.
DIFFERS = {
    "face alone": {"weights", "bottleneck", "train"},
    "face alone, our gates": {"weights"},
    "without interplay": {"weights"},
    "token-wise router": {"weights"},
    "κ 0": {"sampling"},
    "κ 1": {"sampling"},
    "face shown alone": {"sampling"},
    "one stage": {"stages"},
    "two stages": {"stages"},
    "same photo": {"own_photo"},
    "without bottleneck": {"weights", "bottleneck"},
    "without spatial tokens": set(),  # except the values of its first weights
    "without face location": {"sampling"},
    "without pose": {"sampling"},
}


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    torch.set_num_threads(1)
    return ablation_lab.make_lab(tmp_path_factory.mktemp("arms"))


def trained_shapes(lab, one) -> dict[str, tuple]:
    """Shapes by name of all weights that any stage trains."""
    shapes = {}
    for stage in lab.stages(one, 0):
        learner = Learner(initialise(one.design, lab, 0), Lora(), lab.denoiser.linears(), stage, torch.device("cpu"))
        shapes |= {name: tuple(value.shape) for name, value in learner.named.items()}
    return shapes


def test_every_arm_differs_from_the_triplet_only_in_what_it_declares(lab):
    triplet = arm(TRIPLET)
    ours, reference = lab.stages(triplet, 0), trained_shapes(lab, triplet)
    for one in ARMS:
        if one.name == TRIPLET or not one.trains:
            continue
        source, found = trained_as(one), set()
        stages = {stage.name: stage for stage in lab.stages(source, 0)}
        if stages.keys() != {stage.name for stage in ours}:
            found.add("stages")
        else:
            assert trained_shapes(lab, source) == reference or "weights" in DIFFERS[one.name], one.name
        if trained_shapes(lab, source) != reference and "stages" not in found:
            found.add("weights")
        for stage in ours:
            if stage.name in stages:
                other = stages[stage.name].to_dict()
                found |= {name for name, value in stage.to_dict().items() if other[name] != value} - (
                    {"steps", "warmup", "identity_ramp"} if "stages" in found else set()
                )
        if one.sampling != SamplingSettings():
            found.add("sampling")
        assert found == DIFFERS[one.name], one.name
        assert sum(stage.steps for stage in stages.values()) == ablation_lab.STEPS, one.name
        assert one.sampling == SamplingSettings() or one.of, "an arm that differs in sampling only reuses a training"


def test_the_face_alone_is_as_large_as_the_triplet(lab):
    def size(name):
        adapter = initialise(arm(name).design, lab, 0)
        return sum(value.numel() for key, value in adapter.named_parameters() if ".restore." not in key)

    assert size("face alone") == pytest.approx(size(TRIPLET), rel=0.01)
    assert size("face alone, our gates") < 0.8 * size(TRIPLET)
    adapter = initialise(arm("face alone").design, lab, 0)
    assert set(adapter.streams) == {"face"} and len(adapter.streams["face"].gate.knots) == 1


def test_an_untrained_adapter_ignores_the_reference_and_errors_are_cached(lab, tmp_path):
    evaluation_set = ablation_lab.experiment(tmp_path / "experiment").sampler.evaluation_set
    latents = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    points = torch.tensor([[[0.4, 0.4], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6], [0.6, 0.6]]]).repeat(2, 1, 1)

    def linear(missed, keypoints):
        assert torch.equal(keypoints, points)
        return missed.flatten(1) / missed[0].numel() ** 0.5

    probe = conditioning.ConditioningProbe(lab.denoiser, linear, evaluation_set, latents, points, tmp_path / "probed")
    new = initialise(arm(TRIPLET).design, lab, 0)
    untrained = probe.measure(Trained("new", new, Lora(), {}))
    assert list(untrained) == [str(level) for level in conditioning.LEVELS]
    assert all(errors["right"] == errors["wrong"] == errors["unconditional"] for errors in untrained.values())
    random = probe.measure(Trained("random", stir(new), Lora(), {}))
    assert all(len({tuple(values) for values in errors.values()}) == 3 for errors in random.values())
    assert random["900"]["unconditional"] == pytest.approx(untrained["900"]["unconditional"])
    assert probe.measure(Trained("random", None, None, {})) == random, "read from disk"
    rows = conditioning.rows({"new": untrained, "random": random}, evaluation_set.names, "new")
    gain = sum(b - a for a, b in zip(random["700"]["right"], random["700"]["wrong"])) / 2
    (found,) = (row for row in rows if row[:3] == ["random", 700, "added by the wrong reference"])
    assert float(found[3]) == float(found[6]) == pytest.approx(gain, rel=1e-4), "an untrained adapter adds nothing"


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
    assert list(similarity) == [NONE, *ablation_lab.ARMS] and len(set(similarity.values())) == 4, (
        "each arm has its own images"
    )
    text = results.markdown()
    assert "**Partial**" in text and "token-wise router" in text and "| triplet | " in text

    document = tmp_path / "results.md"
    document.write_text(f"# Results\n{MARKS[0]}\nthe old results\n{MARKS[1]}\nThe end.\n")
    put_into(document, twice)
    assert "the old results" not in document.read_text() and document.read_text().endswith("The end.\n")
    assert text.replace("(sheet.jpg)", "(results-sheet.jpg)").strip() in document.read_text()
    assert (tmp_path / "results" / "arms.csv").read_bytes() == (twice / "tables" / "arms.csv").read_bytes()
    assert (tmp_path / "results-sheet.jpg").read_bytes() == (twice / "sheet.jpg").read_bytes()
