"""A training batch conditions the U-Net as an applied person does."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from lab import TinySource, tiny_denoiser, tiny_trainer
from twins import stir

from facecdm.adapter.person import Person
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.hosts.diffusers.sampling import Span
from facecdm.training.initialise import new_adapter
from facecdm.training.randomness import make_random_numbers
from facecdm.training.step import compute_step_data, face_locations


@pytest.mark.parametrize("image_on", [True, False])
@pytest.mark.parametrize("parts", [{}, {"interplay": False}, {"interplay": False, "router": True}])
def test_each_row_is_the_person_at_its_own_noise_level(image_on, parts):
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = stir(new_adapter(denoiser, data, face_rank=8, face_tokens=2, image_tokens=2, image_layers=1, **parts))
    chosen = [0, 4, 7]
    rows = data.load(chosen)
    face, vision = data.features(chosen)
    face = torch.nn.functional.normalize(face, dim=1)
    t = torch.tensor([100, 500, 900])
    sigma = (denoiser.noise / denoiser.signal)[t]
    on = torch.tensor([True, True, True])
    reference_batch = ReferenceBatch(face, vision, on, on if image_on else ~on)
    with torch.no_grad():
        streams = reference_batch.streams(adapter, rows.prompt.states, sigma, torch.float32)
        ours = denoiser.predict(rows.latents, t, rows.prompt, streams)
        for i in range(3):
            text = rows.prompt.states[i : i + 1]
            person = Person(adapter, face[i : i + 1], vision[i : i + 1] if image_on else None)
            with denoiser.host.people([Span(person, 0, 1, text)], sigma[i : i + 1], (8, 8)) as unet:
                alone = unet(rows.latents[i : i + 1], t[i : i + 1], text).sample
            torch.testing.assert_close(ours[i : i + 1], alone, rtol=1e-4, atol=1e-5)


def test_a_row_without_face_and_image_is_the_base_model():
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = stir(new_adapter(denoiser, data, face_rank=8, face_tokens=2, image_tokens=2, image_layers=1))
    rows, (face, vision) = data.load([0, 4]), data.features([0, 4])
    t, off = torch.tensor([300, 600]), torch.tensor([True, False])
    with torch.no_grad():
        streams = ReferenceBatch(face, vision, off, off).streams(
            adapter, rows.prompt.states, torch.ones(2), torch.float32
        )
        shown = denoiser.predict(rows.latents, t, rows.prompt, streams)
        plain = denoiser.predict(rows.latents, t, rows.prompt)
    assert (shown[0] - plain[0]).abs().max() > 1e-3
    torch.testing.assert_close(shown[1], plain[1], rtol=0, atol=1e-6)


def test_a_row_is_conditioned_on_face_location_as_a_person_is():
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = stir(new_adapter(denoiser, data, face_rank=8, face_tokens=4, image_tokens=2, image_layers=1))
    adapter.config = replace(adapter.config, spatial_tokens=True)
    chosen = [0, 4]
    rows, (face, vision) = data.load(chosen), data.features(chosen)
    t, on = torch.tensor([300, 600]), torch.tensor([True, True])
    sigma = (denoiser.noise / denoiser.signal)[t]
    with torch.no_grad():
        reference_batch = ReferenceBatch(face, vision, on, on, face_locations(rows, adapter.config))
        ours = denoiser.predict(
            rows.latents, t, rows.prompt, reference_batch.streams(adapter, rows.prompt.states, sigma, torch.float32)
        )
        for i in range(2):
            text = rows.prompt.states[i : i + 1]
            person = Person(adapter, face[i : i + 1], vision[i : i + 1], keypoints=rows.keypoints[i : i + 1])
            with denoiser.host.people([Span(person, 0, 1, text)], sigma[i : i + 1], (8, 8)) as unet:
                alone = unet(rows.latents[i : i + 1], t[i : i + 1], text).sample
            torch.testing.assert_close(ours[i : i + 1], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pose", [True, False])
@pytest.mark.parametrize("spatial", [True, False])
def test_a_step_with_a_pose_is_conditioned_on_face_location(tmp_path, pose, spatial):
    adapter = new_adapter(tiny_denoiser(), TinySource(), face_rank=8, face_tokens=4, image_tokens=2, image_layers=1)
    adapter.config = replace(adapter.config, spatial_tokens=spatial)
    trainer = tiny_trainer(tmp_path, adapter=adapter)
    rows = trainer.data.load([0, 4])
    random_numbers = make_random_numbers(trainer.stage, 1, 0, tuple(rows.latents.shape))
    random_numbers = replace(random_numbers, pose_on=torch.full((2,), pose))
    on = torch.tensor([True, True])
    reference_batch = ReferenceBatch(trainer.data.features([0, 4])[0], None, on, ~on)
    step_data = compute_step_data(
        trainer.denoiser, trainer.learner, set(), rows, reference_batch, trainer.empty, random_numbers, 1
    )
    assert (step_data.reference_batch.location is not None) == (pose and spatial)


def test_a_picture_without_a_face_has_a_finite_location():
    rows = TinySource().load([0, 4])
    rows = replace(
        rows,
        box=torch.stack([rows.box[0], torch.zeros(4)]),
        keypoints=torch.stack([rows.keypoints[0], torch.zeros(5, 2)]),
    )
    _, scores, face = face_locations(rows, SimpleNamespace(grid_side=2))(16)
    assert scores.isfinite().all() and face.isfinite().all() and scores.shape == (2, 16, 4)
