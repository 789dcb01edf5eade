"""`python -m facecdm train` on folders of Qwen-Image and Z-Image as diffusers saves them: encoders, denoiser, files."""

import math

import pytest
import qwen_image
import torch
import z_image
from dit_folder import check_three_stages, small_data, train, write
from qwen_folder import CONTEXT, make_qwen_image, make_z_image
from tensors import close

from facecdm.hosts.diffusers.denoiser import open_base
from facecdm.hosts.diffusers.dit_encoders import open_encoders

CAPTIONS = ("a woman (30) in a garden", "word " * 20)


@pytest.fixture(scope="module")
def qwen_image_folder(tmp_path_factory, comfyui):
    place = tmp_path_factory.mktemp("qwen")
    return place, make_qwen_image(place, comfyui)


@pytest.fixture(scope="module")
def z_image_folder(tmp_path_factory, comfyui):
    place = tmp_path_factory.mktemp("z")
    return place, make_z_image(place, comfyui)


@torch.no_grad()
def test_prompts_are_those_of_the_pipelines(qwen_image_folder, z_image_folder):
    for (folder, pipeline), sizes in ((qwen_image_folder, (1328, 32)), (z_image_folder, (1024, 16))):
        encoders = open_encoders(folder)
        assert (encoders.resolution, encoders.step, encoders.large, encoders.pooled) == (*sizes, False, False)
        for prompt, caption in zip(encoders.text(CAPTIONS), CAPTIONS):
            states = pipeline.encode_prompt(caption, device="cpu")[0]
            close(prompt.states, states[0].view(1, -1, CONTEXT), 1e-5)


@torch.no_grad()
def test_latents_are_those_of_the_pipeline(qwen_image_folder):
    folder, pipeline = qwen_image_folder
    pixels, config = torch.rand(2, 32, 64, 3), pipeline.vae.config
    mean, deviation = (torch.tensor(values).view(-1, 1, 1) for values in (config.latents_mean, config.latents_std))
    made = [pipeline.vae.encode(one.movedim(-1, 0)[None, :, None] * 2 - 1).latent_dist.mode() for one in pixels]
    latents = open_encoders(folder).latents(pixels)
    close(latents, (torch.cat(made).squeeze(2) - mean) / deviation, 1e-5)
    shown = open_base(str(folder), "cpu").decode(latents)
    close(shown, torch.cat([pipeline.vae.decode(one).sample for one in made]).squeeze(2), 1e-5)


@torch.no_grad()
def test_the_denoiser_is_the_transformer(qwen_image_folder, z_image_folder):
    dynamic = math.exp(0.5 + (83 * 83 - 256) * 0.4 / (8192 - 256))
    for (folder, pipeline), shift, family in (
        (qwen_image_folder, dynamic, qwen_image),
        (z_image_folder, 3.0, z_image),
    ):
        denoiser = open_base(str(folder), "cpu")
        close(denoiser.noise[499], torch.tensor(shift / (shift + 1)), 1e-6)
        prompt, x, t = open_encoders(folder).text(CAPTIONS[:1])[0], torch.randn(1, 16, 8, 6), torch.tensor([499])
        text = [[prompt.states, {}]]
        plain = family.diffusers_prediction(pipeline.transformer, x, float(denoiser.noise[499]), text)
        close(denoiser.predict(x, t, prompt), plain, 1e-5)


@pytest.mark.parametrize(
    "folder, layer",
    [
        ("qwen_image_folder", "transformer.transformer_blocks.0.attn.to_q"),
        ("z_image_folder", "diffusion_model.layers.0.attention.to_q"),
    ],
)
def test_three_stages(request, folder, layer, tmp_path):
    place = request.getfixturevalue(folder)[0]
    data = small_data(place, tmp_path, CAPTIONS)
    assert len({int(data.load([row]).prompt.lengths) for row in range(6)}) == 2
    assert train(write(tmp_path, place, data)) == 0
    check_three_stages(tmp_path / "run", layer)
