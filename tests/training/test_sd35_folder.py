"""A Stable Diffusion 3.5 folder as diffusers saves it: its encoders and its denoiser."""

import pytest
import sd35
import torch
from dit_folder import check_three_stages, small_data, train, write
from flux_folder import CONTEXT, small_t5, small_vae, tokenizers
from tensors import close

from facecdm import bases
from facecdm.hosts.diffusers import dit_encoders
from facecdm.hosts.diffusers.denoiser import open_base
from facecdm.hosts.diffusers.dit_encoders import open_encoders

CAPTIONS = ("a woman in a garden", "word " * 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, comfyui):
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(0)
    clip, t5 = tokenizers(comfyui)
    small = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, vocab_size=49408, eos_token_id=49407)
    sizes = dict(sample_size=16, num_layers=2, num_attention_heads=2, pos_embed_max_size=16, qk_norm="rms_norm")
    widths = dict(joint_attention_dim=CONTEXT, caption_projection_dim=128, pooled_projection_dim=sd35.POOLED)
    clips = [
        CLIPTextModelWithProjection(CLIPTextConfig(hidden_size=size, projection_dim=size, **small)).eval()
        for size in (8, 16)
    ]
    pipeline = StableDiffusion3Pipeline(
        SD3Transformer2DModel(**sizes, **widths),
        FlowMatchEulerDiscreteScheduler(shift=3.0),
        small_vae(),
        clips[0],
        clip,
        clips[1],
        clip,
        small_t5(),
        t5,
    )
    place = tmp_path_factory.mktemp("sd35")
    pipeline.save_pretrained(place)
    return place, pipeline


@torch.no_grad()
def test_prompts_are_those_of_the_pipeline(folder):
    encoders = open_encoders(folder[0])
    assert encoders.pooled and encoders.dit and not encoders.large
    for prompt, caption, length in zip(encoders.text(CAPTIONS), CAPTIONS, (77, 101)):
        states, _, pooled, _ = folder[1].encode_prompt(
            caption, caption, caption, device="cpu", do_classifier_free_guidance=False, max_sequence_length=length
        )
        close(prompt.states, states, 1e-5)
        close(prompt.pooled, pooled, 1e-5)


def test_pictures_have_the_size_of_the_folders_own_base(folder, monkeypatch):
    monkeypatch.setitem(
        dit_encoders.BY_TEXT_ENCODERS, 3, (bases.Base("other", bases.SD35_LARGE.layer_map, resolution=768), 77)
    )
    encoders = open_encoders(folder[0])
    assert (encoders.resolution, encoders.step) == (768, 64)


@torch.no_grad()
def test_the_denoiser_is_the_transformer(folder):
    denoiser, transformer = open_base(str(folder[0]), "cpu"), folder[1].transformer.eval()
    close(denoiser.noise[499], torch.tensor(0.75), 1e-6)
    prompt, x, t = open_encoders(folder[0]).text(CAPTIONS[:1])[0], torch.randn(1, 16, 8, 8), torch.tensor([499])
    close(
        denoiser.predict(x, t, prompt), transformer(x, prompt.states, prompt.pooled, torch.tensor([750.0])).sample, 1e-5
    )


def test_three_stages(folder, tmp_path):
    data = small_data(folder[0], tmp_path, CAPTIONS[:1] * 2)  # of one length: SD3.5 has no mask
    assert data.load([0]).prompt.pooled.shape == (1, sd35.POOLED)
    assert train(write(tmp_path, folder[0], data)) == 0
    check_three_stages(tmp_path / "run", "transformer.transformer_blocks.0.attn.to_q")
