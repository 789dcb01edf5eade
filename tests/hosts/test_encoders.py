"""The encoders of ComfyUI and diffusers equal their own pipelines and the demo's own code."""

import numpy as np
import pytest
import torch
from datasets import colourful
from tensors import close

from facecdm.demo.weights import read_sizes
from facecdm.errors import MissingModel
from facecdm.training.dataset.demo import DemoEncoders

CAPTIONS = ["a young man, short brown hair, smiling", "", "a woman (laughing), red shirt", "words " * 100]
TOLERANCE = 2e-5  # of the largest value


@pytest.fixture(scope="module")
def demo(in_comfy):
    return in_comfy.module("facecdm.hosts.comfy.demo.model").load()


@pytest.fixture(scope="module")
def tokenizer(comfyui):
    return comfyui / "comfy" / "sd1_tokenizer"


@pytest.fixture(scope="module")
def both(in_comfy, demo, tokenizer):
    """(ComfyUI's, our own) encoders of the packaged demo model."""
    comfy = in_comfy.module("facecdm.hosts.comfy.training.encoders").ComfyEncoders(
        demo.model, demo.clip, demo.vae, demo.clip_vision
    )
    return comfy, DemoEncoders(tokenizer)


def test_the_demo_model_is_the_same_in_comfyui_and_outside(both):
    (comfy, own), sizes = both, read_sizes()
    pixels = torch.from_numpy(np.stack([colourful(n, (128, 128)) for n in range(2)])).float() / 255
    pictures = [colourful(3, (256, 256)), colourful(4, (300, 200)), colourful(5, (96, 96))]
    with torch.inference_mode():
        theirs = torch.nn.functional.pixel_unshuffle(comfy.latents(pixels), sizes.shuffle)
        close(theirs, own.latents(pixels), TOLERANCE)
        close(comfy.vision(pictures), own.vision(pictures), 2e-3)  # rounding may differ by one of 255 levels
        for theirs, ours in zip(comfy.text(CAPTIONS[:2]), own.text(CAPTIONS[:2])):
            close(theirs.states, ours.states, TOLERANCE)
            assert theirs.pooled is None
    assert (comfy.resolution, comfy.step, comfy.large) == (own.resolution, own.step, own.large)
    assert (own.resolution, own.step, own.large) == (sizes.image_size, sizes.downscale, False)


def test_parentheses_are_plain_text_and_long_captions_continue(both, demo):
    with torch.inference_mode():
        said, long = both[0].text(CAPTIONS[2:])
        plain = demo.clip.encode_from_tokens(demo.clip.tokenize(CAPTIONS[2], disable_weights=True))
    close(said.states, plain, TOLERANCE)
    assert long.states.shape[1] > 77 and long.states.shape[1] % 77 == 0


def test_fingerprints_follow_weights_loras_and_settings(both, in_comfy, demo):
    make = in_comfy.module("facecdm.hosts.comfy.training.encoders").ComfyEncoders
    first = both[0].fingerprints
    assert make(demo.model, demo.clip, demo.vae, demo.clip_vision).fingerprints == first
    assert make(demo.model, demo.clip, demo.vae).fingerprints.vision == ""
    skipping = demo.clip.clone()
    skipping.clip_layer(-2)
    assert make(demo.model, skipping, demo.vae).fingerprints.text != first.text
    name = "clip_l.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight"
    texts = set()
    for strength in (1.0, 0.5):
        clip = demo.clip.clone()
        assert clip.add_patches({name: ("diff", (torch.ones(192, 192),))}, strength)
        texts.add(make(demo.model, clip, demo.vae).fingerprints.text)
        clip.patcher.patch_model()  # as while it is used
        texts.add(make(demo.model, clip, demo.vae).fingerprints.text)
        clip.patcher.unpatch_model()
    assert len(texts) == 2 and first.text not in texts
    vae = in_comfy.module("facecdm.hosts.comfy.demo.model").build_vae(in_comfy.module("facecdm.demo.weights").read())
    next(vae.first_stage_model.parameters()).data += 0.1
    assert make(demo.model, demo.clip, vae).fingerprints.latents != first.latents


def test_a_vae_of_another_base_is_refused(in_comfy, demo):
    import comfy.sd

    other = object.__new__(comfy.sd.VAE)
    other.latent_channels = 4
    takes = demo.model.model.latent_format.latent_channels
    with pytest.raises(in_comfy.module("facecdm.errors").Mismatch, match=f"4 channels, and the MODEL takes {takes}"):
        in_comfy.module("facecdm.hosts.comfy.training.encoders").ComfyEncoders(demo.model, demo.clip, other)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def pipeline(request, tmp_path_factory, tokenizer):
    """(folder, diffusers pipeline of random small parts)"""
    from diffusers import (
        AutoencoderKL,
        EulerDiscreteScheduler,
        StableDiffusionPipeline,
        StableDiffusionXLPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

    torch.manual_seed(0)
    clip_tokenizer = CLIPTokenizer.from_pretrained(tokenizer, model_max_length=77)
    text = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=64,
        projection_dim=24,
        bos_token_id=49406,
        eos_token_id=49407,
    )
    vae = AutoencoderKL(
        block_out_channels=(32, 32),
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        latent_channels=4,
        scaling_factor=0.13025,
    )
    parts = {"vae": vae, "tokenizer": clip_tokenizer, "text_encoder": CLIPTextModel(text)}
    parts["scheduler"] = EulerDiscreteScheduler()
    small = {
        "block_out_channels": (32, 32),
        "cross_attention_dim": 32,
        "norm_num_groups": 8,
        "attention_head_dim": 8,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    if request.param == "sdxl":
        pipe = StableDiffusionXLPipeline(
            **parts,
            unet=UNet2DConditionModel(**small | {"cross_attention_dim": 64}),
            text_encoder_2=CLIPTextModelWithProjection(text),
            tokenizer_2=clip_tokenizer,
        )
    else:
        pipe = StableDiffusionPipeline(
            **parts, unet=UNet2DConditionModel(**small), safety_checker=None, feature_extractor=None
        )
    folder = tmp_path_factory.mktemp(request.param)
    pipe.save_pretrained(folder)
    return folder, pipe


@torch.no_grad()
def test_diffusers_folders(pipeline):
    from facecdm.hosts.diffusers.encoders import DiffusersEncoders

    folder, pipe = pipeline
    encoders = DiffusersEncoders(folder)
    large = hasattr(pipe, "text_encoder_2")
    assert encoders.large == large and encoders.resolution == (1024 if large else 512)
    pixels = torch.from_numpy(np.stack([colourful(n, (64, 96)) for n in range(2)])).float() / 255
    pushed = pipe.vae.encode(pipe.image_processor.preprocess(pixels.movedim(-1, 1)))
    close(encoders.latents(pixels), pushed.latent_dist.mode() * 0.13025, 1e-3)  # one by one, not as a batch
    mine = encoders.text(CAPTIONS[:2])
    for caption, prompt in zip(CAPTIONS[:2], mine):
        theirs = pipe.encode_prompt(caption, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False)
        close(prompt.states, theirs[0], TOLERANCE)
        if large:
            close(prompt.pooled, theirs[2], TOLERANCE)
        else:
            assert prompt.pooled is None
    assert encoders.text([CAPTIONS[3]])[0].states.shape[1] == 77
    assert DiffusersEncoders(folder).fingerprints == encoders.fingerprints


def test_a_clip_vision_folder(pipeline, tmp_path):
    from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

    from facecdm.hosts.diffusers.encoders import DiffusersEncoders

    torch.manual_seed(1)
    model = CLIPVisionModelWithProjection(
        CLIPVisionConfig(
            hidden_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=64,
            image_size=64,
            patch_size=16,
        )
    )
    processor = CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    model.save_pretrained(tmp_path / "vision")
    processor.save_pretrained(tmp_path / "vision")
    encoders = DiffusersEncoders(pipeline[0], tmp_path / "vision")
    picture = colourful(3, (64, 80))
    with torch.no_grad():
        theirs = model(**processor(picture, return_tensors="pt"), output_hidden_states=True).hidden_states[-2]
    close(encoders.vision([picture]), theirs, 1e-3)
    assert encoders.fingerprints.vision and not DiffusersEncoders(pipeline[0]).fingerprints.vision


def test_a_folder_without_a_vae_is_named(tmp_path, pipeline):
    from facecdm.hosts.diffusers.encoders import DiffusersEncoders

    with pytest.raises(MissingModel, match="vae is missing"):
        DiffusersEncoders(tmp_path)


@pytest.mark.parametrize("spec,scale,size", [("SMALL_SD15", 0.18215, 512), ("SMALL_SDXL", 0.13025, 1024)])
def test_latents_are_scaled_for_the_model(in_comfy, spec, scale, size):
    import twins

    class Made:
        """A VAE whose latents are the pixels' means, and a CLIP whose states are the prompt's length."""

        latent_channels, tokenizer, backup, patches = 4, None, {}, {}
        first_stage_model = model = torch.nn.Linear(1, 1)

        def encode(self, pixels):
            return pixels.mean((1, 2, 3))[:, None, None, None].expand(-1, 4, 8, 8)

        def tokenize(self, text):
            return text

        def encode_from_tokens(self, tokens, return_pooled):
            return torch.full((1, 77, width), float(len(tokens))), torch.full((1, 5), float(len(tokens)))

    Made.patcher = Made()
    model = twins.make_twins(getattr(twins, spec)).model
    width = model.model.model_config.unet_config["context_dim"]
    encoders = in_comfy.module("facecdm.hosts.comfy.training.encoders").ComfyEncoders(model, Made(), Made())
    torch.testing.assert_close(encoders.latents(torch.full((2, 64, 64, 3), 0.5)), torch.full((2, 4, 8, 8), 0.5 * scale))
    assert encoders.large == (spec == "SMALL_SDXL") and encoders.resolution == size
    prompt = encoders.text(["four"])[0]
    assert prompt.states.shape == (1, 77, width) and (prompt.pooled is not None) == encoders.large
    width += 1
    with pytest.raises(in_comfy.module("facecdm.errors").Mismatch, match="connect the CLIP that belongs"):
        encoders.text(["four"])
