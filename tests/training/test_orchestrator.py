"""One orchestrator under both hosts: its checks, what it holds out, and what it leaves."""

import copy
import json
from dataclasses import replace

import pytest
import torch
from lab import PHOTOS, STAGE, VISION, WIDTH, TinySource, tiny_denoiser

from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import save_adapter
from facecdm.errors import FaceCDMError, Mismatch, MissingModel
from facecdm.training.checks import Inputs, Job, Recogniser, check_stage, fitted
from facecdm.training.held_out import choose_held_out
from facecdm.training.initialise import new_adapter, random_adapter
from facecdm.training.lora import Lora
from facecdm.training.orchestrator import Training
from facecdm.training.output import Output, find_lora, notes_of
from facecdm.training.worker import Worker

SIZES = {"face_rank": 8, "face_tokens": 2, "image_tokens": 2, "image_layers": 1}
ALL = frozenset(STAGE.to_dict())


@pytest.fixture(scope="module")
def denoiser():
    torch.set_num_threads(1)
    return tiny_denoiser()


@pytest.fixture(scope="module")
def adapter(denoiser):
    return random_adapter(denoiser, TinySource(), **SIZES)


def jobs(**values) -> list[Job]:
    return [Job(STAGE.with_settings(**{"localisation": 0.0, "steps": 2, "validate_every": 1} | values), ALL)]


# ---- checks ----


def test_a_batch_that_processes_cannot_share_is_refused(denoiser, tmp_path):
    with pytest.raises(FaceCDMError, match="multiple of the number of processes"):
        check_stage(STAGE.with_settings(batch=3), Inputs(denoiser, TinySource(), tmp_path, worker=Worker(0, 2)))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"recogniser": "pack/other.onnx"}, "was trained with pack/other.onnx.*embedded by tiny.onnx"),
        ({"face_width": WIDTH + 1}, "face embeddings of 25 features and the data set's have 24"),
        ({"image_width": VISION + 1}, "same CLIP Vision"),
    ],
)
def test_an_adapter_of_other_encoders_is_refused(denoiser, adapter, tmp_path, change, message):
    other = TripletAdapter(replace(adapter.config, **change))
    with pytest.raises(Mismatch, match=message):
        Training(Inputs(denoiser, TinySource(), tmp_path), jobs(), other)


def test_the_recogniser_of_the_identity_loss_must_be_the_data_sets(denoiser, adapter, tmp_path):
    """On both ways in: a node gives pack/file, a configuration the file."""
    for name, error in (("pack/other.onnx", Mismatch), ("TINY.onnx", MissingModel)):
        inputs = Inputs(denoiser, TinySource(), tmp_path, Recogniser(tmp_path / "none.onnx", name))
        with pytest.raises(error):
            Training(inputs, jobs(identity=0.1), adapter)


def test_an_identity_loss_with_a_recogniser_that_is_no_onnx_file_is_refused(denoiser, adapter, tmp_path):
    recogniser = Recogniser(tmp_path / "recognition_arcface_ir_se50.pth", "TINY.onnx")
    with pytest.raises(FaceCDMError, match=r"reads ONNX recognisers, and recognition_arcface_ir_se50.pth is none"):
        Training(Inputs(denoiser, TinySource(), tmp_path, recogniser), jobs(identity=0.1), adapter)


def test_what_was_not_asked_for_is_left_out_with_a_notice(denoiser, tmp_path):
    inputs = Inputs(denoiser, TinySource(), tmp_path)
    stage = STAGE.with_settings(identity=0.1)
    left, notices = fitted(Job(stage, frozenset()), inputs)
    assert left.identity == 0 and "the identity loss needs a face recogniser" in notices[0]
    with pytest.raises(FaceCDMError, match="'broad': the identity loss needs a face recogniser"):
        fitted(Job(stage, frozenset({"identity"})), inputs)


def test_what_is_not_used_is_reported_and_every_notice_is_given_once(denoiser, adapter, tmp_path):
    class Unseen(TinySource):
        """Without vision states."""

        def features(self, *given, **named):
            return super().features(*given, **named)[0], None

    net = torch.nn.Linear(1, 1)
    stage = STAGE.with_settings(localisation=0.0, steps=1, noise_low=100, noise_share=0.0)
    both = [Job(stage, ALL), Job(stage.with_settings(name="fine"), ALL)]
    result = Training(Inputs(tiny_denoiser(control=net), Unseen(), tmp_path), both, adapter).run()
    wanted = (
        "the ControlNet is not used: the data",
        "noise_low and noise_high are not",
        "the image stream is not trained",
    )
    assert [sum(text in one for one in result.notices) for text in wanted] == [1, 1, 1]
    assert all(sum(text in line for line in result.report) == 2 for text in wanted), "of each stage"
    assert not Training(Inputs(denoiser, TinySource(), tmp_path / "2"), jobs(), adapter).run().notices


def test_a_lora_of_another_model_is_refused(denoiser, adapter, tmp_path):
    name, layer = next(iter(denoiser.layers().items()))
    for layers in ({"elsewhere": layer}, {name: torch.nn.Linear(layer.in_channels + 1, 2)}):
        with pytest.raises(Mismatch, match="the LoRA was made for another model"):
            Training(Inputs(denoiser, TinySource(), tmp_path), jobs(), adapter, Lora.new(layers, 1))


# ---- what is held out ----


def test_whole_people_are_held_out_or_pictures_where_there_are_few_people():
    data = TinySource()
    assert choose_held_out(data, 0.0) == frozenset()
    third = choose_held_out(data, 1 / 3)
    assert {data.identity(i) for i in third} == {1, 4} and len(third) == 2 * PHOTOS
    assert len({data.identity(i) for i in choose_held_out(data, 0.99)}) == 5, "one person is left to train on"
    data.people = {0: list(range(17)), 1: [17]}
    pictures = choose_held_out(data, 0.2)
    assert len(pictures) == 4 and 17 not in pictures, "the only picture of a person would lose its reference"


# ---- what it leaves ----


class Watching:
    def __init__(self):
        self.events = []

    def begin(self, trainer):
        self.events.append(trainer.stage.name)

    def step(self, trainer, pictures):
        self.events.append((trainer.step, pictures is not None))

    def location(self, step, steps, loss):
        self.events.append(("location", step, steps))


def test_the_stages_run_in_turn_and_leave_pictures_plots_and_a_report(denoiser, adapter, tmp_path):
    both = [*jobs(), Job(STAGE.with_settings(name="fine", steps=3, validate_every=2, ema=0.0), ALL)]
    inputs = Inputs(denoiser, TinySource(), tmp_path, held_out=1 / 3)
    watching = Watching()
    result = Training(inputs, both, adapter, None).run(watching)
    assert watching.events == ["broad", (1, True), (2, True), "fine", (1, False), (2, True), (3, True)]
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    pictures = {f"pictures/{name}.png" for name in ("broad-000001", "broad-000002", "fine-000002", "fine-000003")}
    assert names == pictures | {f"{stage}.{kind}" for stage in ("broad", "fine") for kind in ("pt", "png", "jsonl")}
    lines = [json.loads(line) for line in (tmp_path / "fine.jsonl").read_text().splitlines()]
    assert result.history[-len(lines) :] == lines and lines[-1]["step"] == 3
    assert result.pictures.shape[:2] == (1, 3) and 0 <= result.pictures.min() and result.pictures.max() <= 1
    report = "\n".join(result.report)
    assert "stage broad: 2 of 2 steps" in report and "6 held out" in report and "held out: " in report

    again = Training(inputs, both, adapter, None).run()
    assert "stage fine: 3 of 3 steps (resumed at step 3)" in "\n".join(again.report)
    assert torch.equal(again.pictures, result.pictures)
    for name, value in again.adapter.state_dict().items():
        assert torch.equal(value, result.adapter.state_dict()[name])


def test_a_new_adapter_is_initialised_once(denoiser, adapter, tmp_path):
    inputs = Inputs(denoiser, TinySource(), tmp_path)
    before = {name: value.clone() for name, value in adapter.state_dict().items()}
    first = Training(inputs, jobs(), adapter).adapter
    wanted = new_adapter(denoiser, TinySource(), **SIZES)
    assert all(torch.equal(value, wanted.state_dict()[name]) for name, value in first.state_dict().items())
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())
    first.face_projector.mean.add_(1)
    again = Training(inputs, jobs(), first).adapter
    assert torch.equal(again.face_projector.mean, first.face_projector.mean), "another data set does not change it"


# ---- files of the shell ----


def test_another_trainings_files_are_not_overwritten(denoiser, adapter, tmp_path):
    notes = notes_of("data", "demo", [STAGE], "start")
    ours = Output(tmp_path, "adapter", notes)
    ours.check_free()
    lora = Lora.new(denoiser.linears(), 1)
    paths = ours.save(adapter, lora, Lora())
    assert set(paths) == {"adapter", "lora"} and paths["lora"].name == "adapter_lora.safetensors"
    ours.check_free()
    for name in notes:
        with pytest.raises(FaceCDMError, match="exists and was not made by this training.*--overwrite"):
            Output(tmp_path, "adapter", notes | {name: "other"}).check_free()
    paths["adapter"].unlink()
    save_adapter(adapter, tmp_path, "adapter")
    with pytest.raises(FaceCDMError, match="--overwrite"):
        ours.check_free()


def test_a_lora_under_its_former_name_is_found_and_replaced(denoiser, adapter, tmp_path):
    ours = Output(tmp_path, "adapter", notes_of("data", "demo", [STAGE], "start"))
    lora = Lora.new(denoiser.linears(), 1)
    new = ours.save(adapter, lora, lora)
    former = {kind: path.with_name(path.name.replace("_", " ")) for kind, path in new.items()}
    assert former["control lora"].name == "adapter control lora.safetensors"
    for kind in ("lora", "control lora"):
        assert find_lora(former[kind]) == find_lora(new[kind]) == new[kind], "a config may name the former file"
        new[kind].rename(former[kind])
        assert find_lora(former[kind]) == find_lora(new[kind]) == former[kind]
    ours.check_free()
    assert ours.save(adapter, lora, lora) == former, "a run that goes on keeps its files' names"
    with pytest.raises(FaceCDMError, match="adapter lora.safetensors exists"):
        former["adapter"].unlink()
        Output(tmp_path, "adapter", notes_of("other", "demo", [STAGE], "start")).check_free()


def test_an_adapter_with_nan_is_not_written(adapter, tmp_path):
    broken = copy.deepcopy(adapter)
    broken.face_projector.mean.fill_(float("nan"))
    with pytest.raises(FaceCDMError, match="face_projector.mean holds NaN or infinity"):
        save_adapter(broken, tmp_path, "adapter")
    assert not list(tmp_path.iterdir())
