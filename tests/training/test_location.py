"""A location head for a base model: trained on its predictions, and put into an adapter."""

import json
from dataclasses import replace

import pytest
import torch
from lab import STAGE, TinySource, everything, tiny_denoiser, tiny_trainer
from step_stubs import StubDenoiser, make_rows, make_step_data
from torch import nn

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.location_finder import LocationFinder
from facecdm.adapter.location_head import LocationHead
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.errors import BadFile, FaceCDMError
from facecdm.training import state
from facecdm.training.checks import Inputs, Job
from facecdm.training.initialise import new_adapter, random_adapter
from facecdm.training.location import (
    LocationPlan,
    kept_location_head,
    location_batch,
    train_location_head,
    with_location_head,
)
from facecdm.training.losses import FewStepIdentityLoss
from facecdm.training.orchestrator import Training
from facecdm.training.preview import preview
from facecdm.training.randomness import make_random_numbers
from facecdm.training.stages import preset
from facecdm.training.worker import Worker

PLAN = LocationPlan(steps=3, batch=4)


def test_a_training_is_reproducible_and_reports():
    reports = []
    first = train_location_head(tiny_denoiser(), TinySource(), PLAN, lambda *events: reports.append(events))
    again = train_location_head(tiny_denoiser(), TinySource(), PLAN, lambda *events: None)
    assert [step for step, _ in reports] == [1, 2, 3]
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch": 0},
        {"call": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"predicted": 1.5},
        {"windows": -0.1},
    ],
)
def test_a_plan_that_trains_nothing_is_refused(change):
    with pytest.raises(FaceCDMError, match=f"{next(iter(change))} must be"):
        LocationPlan(**change)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_batches_of_predictions_and_of_latents(share):
    data = TinySource()
    rows = data.load([0, 1, 2, 3])
    clean, level, wanted = location_batch(tiny_denoiser(), data, rows, LocationPlan(predicted=share), 1)
    assert clean.shape == rows.latents.shape and torch.isfinite(clean).all()
    assert level.shape == (4,) and torch.equal(wanted, rows.keypoints)
    if share == 0:
        assert (clean - rows.latents).abs().mean() < 0.3, "latents with little noise"


def test_a_constant_location_is_learnt():
    """The key points of this data set are the same in every picture."""
    head = train_location_head(tiny_denoiser(), TinySource(), LocationPlan(steps=60, batch=4, predicted=0.25))
    data = TinySource()
    with torch.no_grad():
        points, _ = head(torch.stack(data.latents[:4]), torch.full((4,), 0.1))
    assert (points - data.load([0]).keypoints).abs().mean() < 0.05


def test_the_head_is_put_into_an_adapter_and_into_its_file(tmp_path):
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = new_adapter(denoiser, data, face_rank=8, face_tokens=4, image_tokens=2, image_layers=1)
    head = train_location_head(denoiser, data, PLAN, lambda *events: None)
    made = with_location_head(adapter, head)
    for name, value in adapter.state_dict().items():
        assert torch.equal(made.state_dict()[name], value)
    read = load_adapter(save_adapter(made, tmp_path, "located"))
    clean = torch.randn(2, 4, 8, 8)
    expected = head(clean, torch.tensor([1.0, 1.0]))[0]
    torch.testing.assert_close(read.locate(clean, torch.tensor([1.0]))[0], expected)
    again = with_location_head(read, train_location_head(denoiser, data, LocationPlan(steps=1, batch=2, seed=1)))
    assert (again.locate(clean, torch.tensor([1.0]))[0] - expected).abs().max() > 1e-5


def test_the_base_model_is_called_for_a_few_pictures_at_a_time_and_held_out_ones_are_not_used():
    denoiser, data = tiny_denoiser(), TinySource()
    sizes, loaded, predict = [], set(), denoiser.predict
    denoiser.predict = lambda noisy, *given: sizes.append(len(noisy)) or predict(noisy, *given)
    load = data.load
    data.load = lambda indices: loaded.update(indices) or load(indices)
    train_location_head(denoiser, data, LocationPlan(steps=4, batch=6, call=2), held_out=frozenset(range(10)))
    assert set(sizes) <= {1, 2} and sum(sizes) == 4 * 3
    assert loaded == set(range(10, 18))


def test_windows_show_larger_faces():
    data = TinySource()
    data.latents = [torch.randn(4, 32, 32) for _ in data.latents]
    rows = data.load([0, 1])
    clean, _, points = location_batch(tiny_denoiser(), data, rows, LocationPlan(predicted=0.0, windows=1.0), 1)
    assert clean.shape[-2:] == (16, 16)
    torch.testing.assert_close(points[:, 1, 0] - points[:, 0, 0], torch.full((2,), 0.4))


def test_rows_without_a_face_are_left_out():
    data = TinySource()
    rows = data.load([0, 1, 2])
    rows.box[1] = 0
    clean, level, points = location_batch(tiny_denoiser(), data, rows, LocationPlan(predicted=0.5), 1)
    assert len(clean) == len(level) == len(points) == 2


def test_processes_share_a_batch_and_average_the_gradients():
    counts = []

    def mean(value):
        counts.append(value.numel())
        return value

    data, parts = TinySource(), []
    data.load = lambda indices: parts.append(len(indices)) or TinySource.load(data, indices)
    for rank in (0, 1):
        plan = LocationPlan(steps=1, batch=6)
        head = train_location_head(tiny_denoiser(), data, plan, worker=Worker(rank, 2, mean))
    assert parts == [3, 3]
    weights = sum(value.numel() for value in head.parameters())
    assert counts == [weights] * 2, "one message per process"


# ---- a stage that trains the head and uses it ----


def spatial_adapter(denoiser, data, head=False):
    adapter = random_adapter(denoiser, data, face_rank=8, face_tokens=4, image_tokens=2, image_layers=1)
    adapter = TripletAdapter(
        replace(adapter.config, spatial_tokens=True, location_channels=4 if head else 0)
    ).init_from_text(denoiser.text_keys_values())
    return adapter.requires_grad_(False)


def stage(**values):
    return STAGE.with_settings(**{"localisation": 0.0, "steps": 2, "validate_every": 2, "location_steps": 3} | values)


def test_a_stage_trains_the_head_first_keeps_it_and_reports(tmp_path):
    denoiser, data, events = tiny_denoiser(), TinySource(), []

    class Watching:
        def begin(self, trainer):
            events.append(trainer.stage.name)

        def step(self, trainer, pictures):
            events.append(trainer.step)

        def location(self, step, steps, loss):
            events.append(f"location {step} of {steps}")

    inputs = Inputs(denoiser, data, tmp_path)
    jobs = [Job(stage(), frozenset())]
    adapter = spatial_adapter(denoiser, data)
    result = Training(inputs, jobs, adapter).run(Watching())
    assert events == [*(f"location {n} of 3" for n in (1, 2, 3)), "broad", 1, 2]
    assert result.adapter.config.location_channels == 4 and "location head: 3 steps, loss" in result.report[0]
    again = Training(inputs, jobs, adapter).run(Watching())
    assert "location head: 3 steps (kept)" in again.report and events[6:] == ["broad"]
    for name, value in result.adapter.state_dict().items():
        assert torch.equal(value, again.adapter.state_dict()[name])
    assert not any(result.adapter.location_head.spread.weight.isnan().flatten())


def test_the_preset_for_many_people_trains_a_head_and_that_for_one_person_does_not():
    many, one = ([stage.location_steps for stage in preset(name)] for name in ("adapter", "one person"))
    assert many == [0, 1000, 0] and not any(one)


def test_what_has_no_effect_is_reported(tmp_path):
    denoiser, data = tiny_denoiser(), TinySource()
    inputs = Inputs(denoiser, data, tmp_path)
    plain = random_adapter(denoiser, data, face_rank=8, face_tokens=2, image_tokens=2, image_layers=1)
    report = Training(inputs, [Job(stage(), frozenset())], plain).run().report
    assert any("no location_steps: the adapter's face tokens are not spatial" in line for line in report)
    job = Job(stage(location_steps=0, find_location=0.5), frozenset())
    report = Training(replace(inputs, folder=tmp_path / "2"), [job], spatial_adapter(denoiser, data)).run().report
    assert any("no find_location: the adapter has no location head" in line for line in report)


def test_a_stage_leaves_the_head_as_it_is(tmp_path):
    """Weight decay would change weights that have no gradient."""
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = spatial_adapter(denoiser, data, head=True)
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(find_location=1.0, steps=2), adapter=adapter)
    assert not any(name.startswith("adapter.location_head") for name in everything(trainer))
    made = trainer.run().adapter
    for name, value in adapter.location_head.state_dict().items():
        assert torch.equal(made.location_head.state_dict()[name], value)


def watched(denoiser) -> list:
    """Timesteps and people of every call of the denoiser from now on."""
    predict, events = denoiser.predict, []

    def watching(noisy, t, prompt, people=None, *rest):
        events.append((t.tolist(), people))
        return predict(noisy, t, prompt, people, *rest)

    denoiser.predict = watching
    return events


def test_a_share_of_the_batches_uses_the_heads_estimate(tmp_path):
    """The base model is called once more, a sampling step earlier, and its prediction is located."""
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = spatial_adapter(denoiser, data, head=True)
    calls = {}
    for share in (0.0, 1.0):
        trainer = tiny_trainer(
            tmp_path / str(share), STAGE.with_settings(find_location=share, drop_pose=0.0), adapter=adapter
        )
        calls[share] = watched(trainer.denoiser)
        with trainer.applied():
            trainer._forward([0, 1, 2, 3], 0, 1)
    (given,) = [people for _, people in calls[0.0] if people is not None]
    before, *now = calls[1.0]
    assert len(calls[1.0]) == len(calls[0.0]) + 1 and before[1] is None
    (found,) = [people for _, people in now if people is not None]
    t = calls[0.0][0][0]
    assert before[0] == [min(level + 50, 999) for level in t]
    assert given[0][0].location.trust is None and found[0][0].location.trust.shape == (4,)
    some = STAGE.with_settings(find_location=0.3)
    chosen = [bool(make_random_numbers(some, step, 0, (4, 4, 8, 8)).find_on[0]) for step in range(200)]
    assert 0.2 < sum(chosen) / 200 < 0.4


def test_a_checkpoint_from_before_these_settings_resumes(tmp_path):
    trainer = tiny_trainer(tmp_path, STAGE.with_settings(steps=1))
    trainer.run()
    stored = torch.load(trainer.checkpoint, weights_only=True)
    identity = json.loads(stored["identity"])
    del identity["settings"]["location_steps"], identity["settings"]["find_location"]
    torch.save(stored | {"identity": json.dumps(identity)}, trainer.checkpoint)
    assert tiny_trainer(tmp_path, STAGE.with_settings(steps=1)).step == 1
    with pytest.raises(state.RunMismatch, match="find_location was 0.0 and is 0.5"):
        tiny_trainer(tmp_path, STAGE.with_settings(steps=1, find_location=0.5))


def test_previews_without_a_pose_find_the_face(tmp_path):
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = spatial_adapter(denoiser, data, head=True)
    nn.init.normal_(adapter.streams["face"].gate.knots)
    adapter.location_head.heat.weight.data.mul_(100)
    adapter.location_head.spread.bias.data.fill_(-6.0)
    pictures = {}
    for name, drop in (("found", 1.0), ("given", 0.0)):
        learner = tiny_trainer(tmp_path / name, STAGE.with_settings(drop_pose=drop), adapter=adapter).learner
        pictures[name] = preview(denoiser, learner, data, [0], [6], steps=3)
    without = TripletAdapter(replace(adapter.config, location_channels=0))
    without.load_state_dict({k: v for k, v in adapter.state_dict().items() if not k.startswith("location_head")})
    learner = tiny_trainer(tmp_path / "none", STAGE.with_settings(drop_pose=1.0), adapter=without).learner
    pictures["none"] = preview(denoiser, learner, data, [0], [6], steps=3)
    assert not torch.equal(pictures["found"], pictures["given"])
    assert not torch.equal(pictures["found"], pictures["none"])


def test_sampled_pictures_are_aligned_where_the_head_finds_the_face():
    """In a sampling from noise nothing puts the face at the row's key points."""

    class Recognised(nn.Module):
        def embed(self, pixels, keypoints):
            self.keypoints = keypoints
            return pixels.flatten(1)[:, :512] + 1

    torch.manual_seed(0)
    denoiser, rows = StubDenoiser(), make_rows(2)
    config = AdapterConfig(denoiser.layer_map, face_rank=8, face_tokens=4, spatial_tokens=True, location_channels=3)
    adapter, recogniser, found = TripletAdapter(config).requires_grad_(False), Recognised(), []
    finder = LocationFinder(adapter)

    def find(before, size, device):
        found.append((before, finder(before, size, device)))
        return found[-1][1]

    step_data = make_step_data([600, 600], denoiser, rows, adapter=adapter, empty=rows.prompt, find_location=find)
    located = replace(step_data.reference_batch, location=finder(None, (16, 16), torch.device("cpu")))
    step_data = replace(step_data, reference_batch=located)
    FewStepIdentityLoss(recogniser, steps=3, begin="noise").per_row(step_data)
    assert found[0][0] is None and all(before is not None for before, _ in found[1:]) and len(found) == 4
    assert torch.equal(recogniser.keypoints, found[-1][1].keypoints)
    assert not torch.equal(recogniser.keypoints, rows.keypoints)


def test_a_kept_head_is_read_again_for_the_same_data_and_settings_only(tmp_path):
    path, trained = tmp_path / "run" / "location_head.pt", LocationHead(4)
    assert torch.equal(kept_location_head(path, "a", lambda: trained).heat.weight, trained.heat.weight)
    assert torch.equal(kept_location_head(path, "a", lambda: LocationHead(4)).heat.weight, trained.heat.weight)
    content = path.read_bytes()
    with pytest.raises(state.RunMismatch, match=r"location_head.pt was made with other data or settings"):
        kept_location_head(path, "b", lambda: LocationHead(4))
    assert path.read_bytes() == content


@pytest.mark.parametrize("content", [b"no pickle", {"made_with": ""}, {"made_with": "", "head": {"heat.weight": 1}}])
def test_a_damaged_kept_head_is_named(tmp_path, content):
    path = tmp_path / "location_head.pt"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(BadFile, match="location_head.pt is damaged"):
        kept_location_head(path, "", lambda: None)


def test_every_process_names_a_damaged_head(tmp_path):
    """Else the others would wait for rank 0 until the connection's timeout."""
    worker = Worker(rank=1, count=2, broadcast=lambda content: b"what rank 0 read")
    with pytest.raises(BadFile, match="location_head.pt is damaged"):
        kept_location_head(tmp_path / "location_head.pt", "", lambda: None, worker)


@pytest.mark.parametrize("drop_pose", [0.0, 0.5, 1.0])
def test_validation_has_the_data_sets_location_unless_the_stage_never_has_it(tmp_path, drop_pose):
    adapter = spatial_adapter(tiny_denoiser(), TinySource(), head=True)
    stage = STAGE.with_settings(find_location=1.0, drop_pose=drop_pose)
    trainer = tiny_trainer(tmp_path, stage, adapter=adapter, held_out=frozenset({0, 1}))
    calls = watched(trainer.denoiser)
    trainer.validate()
    locations = [people[0][0].location for _, people in calls]
    assert len(locations) == 2, "with and without the face, and no call to find the location"
    assert all((location is None) is (drop_pose == 1) for location in locations)
    assert all(location is None or location.trust is None for location in locations)
