"""One stage: what it trains, bit-exact resuming, validation, averaging, accumulation and divergence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from lab import STAGE, TinySource, everything, tiny_trainer

from facecdm.errors import BadFile
from facecdm.training.divergence import Diverged, skipped_steps
from facecdm.training.lora import Lora
from facecdm.training.losses import IdentityLoss
from facecdm.training.randomness import batches
from facecdm.training.report import stage_report
from facecdm.training.state import RunMismatch
from facecdm.training.step import Term

LAB = Path(__file__).parents[1] / "support" / "lab.py"
PROCESSES = LAB.with_name("lab_processes.py")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run."""
    trainer = tiny_trainer(tmp_path_factory.mktemp("whole"))
    result = trainer.run()
    return trainer, everything(trainer), result


def equal(ours: dict, theirs: dict) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_every_trained_parameter_has_changed(whole, tmp_path):
    _, learnt, _ = whole
    fresh = everything(tiny_trainer(tmp_path))
    still = [
        name for name, value in learnt.items() if name.startswith("parameters") and torch.equal(value, fresh[name])
    ]
    # The face's decoder is no part of these losses.
    assert {name.split(".")[-2] for name in still} <= {"restore"}


@pytest.mark.parametrize("kills", [(2,), (1, 3, 5)])
def test_killed_and_resumed_ends_in_the_same_bits(whole, tmp_path, kills):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LAB.parents[2]), str(LAB.parent)])}
    for kill in kills:
        command = [sys.executable, LAB, tmp_path, str(kill)]
        assert subprocess.run(command, env=environment).returncode == -signal.SIGKILL
    trainer = tiny_trainer(tmp_path)
    assert trainer.step in (kills[-1] - 1, kills[-1])
    trainer.run()
    equal(everything(trainer), whole[1])
    assert trainer.history == whole[0].history


def test_an_interrupt_keeps_what_was_learnt(whole, tmp_path):
    def stop(trainer):
        if trainer.step == 3:
            raise KeyboardInterrupt

    first = tiny_trainer(tmp_path, STAGE.with_settings(save_every=100))
    with pytest.raises(KeyboardInterrupt):
        first.run(stop)
    second = tiny_trainer(tmp_path, STAGE.with_settings(save_every=100))
    assert second.step == 3
    second.run()
    equal(everything(second), whole[1])


def test_other_settings_or_data_are_refused_and_named(whole):
    folder = whole[0].checkpoint.parent
    with pytest.raises(RunMismatch, match="learning_rate was 0.001 and is 0.002"):
        tiny_trainer(folder, STAGE.with_settings(learning_rate=2e-3))
    with pytest.raises(RunMismatch, match="the base model is different"):
        tiny_trainer(folder, base="another")
    other = tiny_trainer(folder).learner.result()[0]
    other.streams["face"].gate.knots.data += 1
    with pytest.raises(RunMismatch, match="the initial adapter or LoRA is different"):
        tiny_trainer(folder, adapter=other)


def test_another_controlnet_or_recogniser_is_refused_and_named(tmp_path):
    def look(seed: int) -> list[Term]:
        return [Term("identity", IdentityLoss(recogniser=network(seed)), 0.0)]

    def network(seed: int) -> torch.nn.Module:
        torch.manual_seed(seed)
        found = torch.nn.Linear(2, 2)
        found.register_buffer("weights", torch.randn(3))
        return found

    tiny_trainer(tmp_path, control=network(0), more_terms=look(0)).save()
    tiny_trainer(tmp_path, control=network(0), more_terms=look(0))
    with pytest.raises(RunMismatch, match="the pose ControlNet is different") as caught:
        tiny_trainer(tmp_path, control=network(1), more_terms=look(0))
    assert "recogniser" not in str(caught.value)
    with pytest.raises(RunMismatch, match="the face recogniser is different"):
        tiny_trainer(tmp_path, control=network(0), more_terms=look(1))
    with pytest.raises(RunMismatch, match="the pose ControlNet is different; the face recogniser is different"):
        tiny_trainer(tmp_path)


def test_a_damaged_checkpoint_is_named(whole, tmp_path):
    path = tmp_path / "broad.pt"
    path.write_bytes(whole[0].checkpoint.read_bytes()[:5000])
    with pytest.raises(BadFile, match="broad.pt is damaged"):
        tiny_trainer(tmp_path)


def test_low_rank_keys_and_values_are_merged(tmp_path):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(rank=2, ema=0.0, steps=3))
    adapter = trainer.run().adapter
    before = trainer.learner.adapter
    for part in trainer.learner.extra.values():
        assert part.up.abs().max() > 0
    old, new = before.streams["face"].to_k[0], adapter.streams["face"].to_k[0].weight
    torch.testing.assert_close(new, old.weight + trainer.learner.extra[old].weight)


def test_the_given_adapter_is_left_alone_and_the_next_stage_begins_with_the_result(tmp_path):
    first = tiny_trainer(tmp_path / "1", STAGE.with_settings(steps=2))
    result = first.run()
    before = {name: value.clone() for name, value in result.adapter.state_dict().items()}
    fine = STAGE.with_settings(name="fine", steps=2, train=("projectors", "gates", "kappa"))
    second = tiny_trainer(tmp_path / "2", fine, adapter=result.adapter, lora=result.lora)
    last = second.run()
    equal(result.adapter.state_dict(), before)
    equal(last.lora.tensors(), result.lora.tensors())  # stage 3 leaves the LoRA as it is
    moved = [name for name, value in last.adapter.state_dict().items() if not torch.equal(value, before[name])]
    assert any("gate" in name for name in moved) and not any("streams" in name and "to_" in name for name in moved)


def test_a_lora_travels_through_its_tensors(whole):
    _, _, result = whole
    again = Lora.from_tensors(result.lora.tensors())
    assert again.parts.keys() == result.lora.parts.keys()
    equal(again.tensors(), result.lora.tensors())


def test_validation_uses_held_out_pictures_only(tmp_path):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(steps=2, validate_every=1), held_out=frozenset({0, 1, 2, 17}))
    trainer.run()
    lines = [line for line in trainer.history if "validation" in line]
    assert len(lines) == 2
    assert not {0, 1, 2, 17} & {i for bucket in trainer.buckets for i in bucket}
    assert lines[0]["validation"] != lines[1]["validation"]


def test_validation_without_the_face_keeps_the_lora_and_the_image_stream(tmp_path):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(learning_rate=0.03, ema=0.0), held_out=frozenset({0, 1, 2}))
    trainer.run()
    with trainer.applied():
        measured = trainer.validate()
        for stream, equal in (("image", False), ("face", True)):
            trainer.learner.adapter.streams[stream].gate.knots.data.zero_()
            less = trainer.validate()
            assert less["validation without face"] != measured["validation without face"] or stream == "face"
            assert (less["validation"] == less["validation without face"]) is equal
    assert trainer.validate()["validation without face"] != less["validation without face"], "the LoRA was on"


def test_held_out_pictures_are_no_references_in_training(tmp_path):
    """The only picture of a person that is left is its own reference."""
    data, asked = TinySource(), []
    held_out = frozenset({1, 2, 4, 12, 13, 14})
    stage = STAGE.with_settings(own_photo=0.0, validate_every=100)
    trainer = tiny_trainer(tmp_path, stage, data=data, held_out=held_out)
    features = data.features
    data.features = lambda indices, *rest: asked.extend(indices) or features(indices, *rest)
    trainer.run()
    assert 0 in asked and not held_out & set(asked)
    asked.clear()
    trainer.validate()
    assert {12, 13, 14} & set(asked), "in validation they are"


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_learns_finite_weights(tmp_path, precision):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(precision=precision, steps=3))
    trainer.run()
    values = everything(trainer)
    assert all(torch.isfinite(value).all() for value in values.values())


def test_gradient_checkpointing_changes_nothing(whole, tmp_path):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(checkpointing=True))
    trainer.run()
    for name, value in everything(trainer).items():
        torch.testing.assert_close(value, whole[1][name], rtol=1e-4, atol=1e-6)


# ---- accumulation ----


def test_a_resumed_run_with_accumulation_goes_on_with_the_next_batches(tmp_path):
    stage = STAGE.with_settings(accumulation=2, steps=4, save_every=100)
    whole = tiny_trainer(tmp_path / "whole", stage)
    whole.run()

    def stop(trainer):
        if trainer.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path / "cut", stage).run(stop)
    second = tiny_trainer(tmp_path / "cut", stage)
    second.run()
    equal(everything(second), everything(whole))


def test_accumulated_gradients_and_losses_are_means(tmp_path):
    stage = STAGE.with_settings(accumulation=2, steps=1)
    trainer = tiny_trainer(tmp_path, stage)
    order = batches(trainer.buckets, stage.batch, stage.seed, 0)
    losses = []
    with trainer.applied():
        for micro in range(2):
            total, values = trainer._forward(next(order), micro, 1)
            (total / 2).backward()
            losses.append(values["diffusion"].item())
    gradients = [value.grad for value in trainer.learner.named.values() if value.grad is not None]
    norm = torch.cat([gradient.flatten() for gradient in gradients]).norm().item()
    trainer.optimiser.zero_grad()
    trainer.run()
    assert trainer.history[0]["gradient"] == pytest.approx(norm, rel=1e-4)
    assert trainer.history[0]["diffusion"] == pytest.approx(sum(losses) / 2, rel=1e-4)


# ---- the moving average ----


def test_the_average_moves_slowly_towards_the_weights(tmp_path):
    learner = tiny_trainer(tmp_path, STAGE.with_settings(ema=0.9)).learner
    name, value = next(iter(learner.named.items()))
    before = value.detach().clone()
    value.data.add_(1)
    learner.follow(1)  # decay (1 + 1) / (10 + 1)
    torch.testing.assert_close(learner.average[name], before + 9 / 11)
    value.data.copy_(before + 11)
    learner.follow(1000)  # decay 0.9
    torch.testing.assert_close(learner.average[name], before + 0.9 * 9 / 11 + 0.1 * 11)


def test_validation_measures_the_averaged_weights(tmp_path):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(ema=0.99, learning_rate=0.03), held_out=frozenset({0, 1, 2}))
    trainer.run()
    measured = trainer.validate()
    raw = {name: value.detach().clone() for name, value in trainer.learner.named.items()}
    for name, value in trainer.learner.named.items():
        value.data.copy_(trainer.learner.average[name])
    assert trainer.validate() == measured
    trainer.learner.average = raw
    assert trainer.validate()["validation"] != measured["validation"]


# ---- divergence ----


def failing_from(step: int) -> Term:
    return Term("failing", lambda data: data.prediction.mean() * (float("nan") if data.step >= step else 1.0))


def test_a_diverged_run_stops_with_an_error_and_keeps_its_state(tmp_path):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(steps=12), more_terms=[failing_from(3)])
    with pytest.raises(Diverged, match=r"the last 6 steps .* had no finite gradient .*learning_rate 0.001"):
        trainer.run()
    assert trainer.step == 8 and skipped_steps(trainer.history) == [3, 4, 5, 6, 7, 8]
    again = tiny_trainer(tmp_path, STAGE.with_settings(steps=12), more_terms=[failing_from(3)])
    with pytest.raises(Diverged):
        again.run()
    assert again.step == 8, "a resumed run does not go on either"


def test_skipped_steps_are_reported(tmp_path):
    broken = Term("broken", lambda data: data.prediction.mean() * (float("nan") if data.step == 2 else 1.0))
    trainer = tiny_trainer(tmp_path, more_terms=[broken])
    trainer.run()
    assert "1 steps were skipped: their gradient was not finite" in stage_report(trainer, 0, 1.0)


def test_weights_that_are_not_finite_are_no_result(tmp_path):
    def spoil(trainer):
        next(iter(trainer.learner.named.values())).data.fill_(float("inf"))

    with pytest.raises(Diverged, match="the adapter diverged: 1 of its .* tensors hold NaN or infinity"):
        tiny_trainer(tmp_path, STAGE.with_settings(steps=1, ema=0.0)).run(spoil)


# ---- several processes ----


def two_processes(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """Two processes, each with a folder of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", PROCESSES, folder, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(LAB.parents[2]), str(LAB.parent)])}
    return subprocess.run([*map(str, command)], capture_output=True, text=True, env=environment, timeout=550)


def test_processes_without_a_shared_folder_resume_from_rank_0(tmp_path):
    def stop(trainer):
        if trainer.step == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_trainer(tmp_path / "0", STAGE.with_settings(steps=4)).run(stop)
    done = two_processes(tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (torch.load(tmp_path / f"{rank}.state", weights_only=True) for rank in (0, 1))
    assert first["first"] == second["first"] == 2
    equal(first["state"], second["state"])


def test_a_process_with_another_data_set_is_refused(tmp_path):
    done = two_processes(tmp_path, "other data")
    assert done.returncode != 0 and "process 2 differs: the data set is different" in done.stderr
