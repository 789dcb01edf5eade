"""ComfyUI's objects compute what diffusers, transformers and the training's own code compute."""

import pytest
import torch
from tensors import close
from twins import conditioning, predict

CAPTION = "a young man, short brown hair, smiling"


@pytest.fixture(scope="module")
def model(hosts, random_weights):
    return hosts.build_model(random_weights, torch.float32)


@pytest.fixture(scope="module")
def clip(hosts, random_weights):
    return hosts.build_clip(random_weights, torch.float32)


@pytest.fixture(scope="module")
def vae(hosts, random_weights):
    return hosts.build_vae(random_weights, torch.float32)


@torch.no_grad()
def test_the_unet_is_that_of_diffusers(model, originals):
    noisy, context = torch.randn(2, 48, 16, 16), torch.randn(2, 77, 192)
    level = torch.tensor([3.0, 801.0])
    close(model.model.diffusion_model(noisy, level, context=context), originals[0](noisy, level, context).sample)


def test_widths_of_the_unet_are_multiples_of_the_first_levels(in_comfy, hosts):
    sizes = in_comfy.module("facecdm.demo.sizes").DemoSizes(channels=(64, 128, 256))
    config = hosts.core_unet_config(sizes)
    assert (config["model_channels"], config["channel_mult"]) == (64, [1, 2, 4])


@torch.no_grad()
def test_the_unet_takes_other_sizes(model, originals):
    noisy, context, level = torch.randn(1, 48, 24, 20), torch.randn(1, 77, 192), torch.tensor([500.0])
    close(model.model.diffusion_model(noisy, level, context=context), originals[0](noisy, level, context).sample)


def test_the_noise_schedule_is_that_of_the_training(in_comfy, model):
    alpha, sigma = in_comfy.module("facecdm.demo.schedule").signal_and_noise()
    theirs = model.model.model_sampling.sigmas
    torch.testing.assert_close(sigma / alpha, theirs, rtol=1e-3, atol=0)
    torch.testing.assert_close(1 / (1 + theirs**2).sqrt(), alpha, rtol=0, atol=1e-6)


@torch.no_grad()
def test_a_step_of_comfyui_is_v_prediction(in_comfy, model, originals):
    alpha, sigma = in_comfy.module("facecdm.demo.schedule").signal_and_noise()
    clean, noise, context = torch.randn(1, 48, 16, 16), torch.randn(1, 48, 16, 16), torch.randn(1, 77, 192)
    level = 600
    noisy = alpha[level] * clean + sigma[level] * noise
    velocity = originals[0](noisy, level, context).sample
    expected = alpha[level] * noisy - sigma[level] * velocity
    ratio = model.model.model_sampling.sigmas[level : level + 1]
    denoised = model.model.apply_model(noisy / alpha[level], ratio, c_crossattn=context)
    close(denoised, expected, 1e-4)


@torch.no_grad()
def test_the_text_tower_is_that_of_transformers(in_comfy, clip, originals, comfyui):
    from transformers import CLIPTokenizer

    clip_module = in_comfy.module("facecdm.demo.clip")
    tokenizer = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer")
    ids = tokenizer(CAPTION, padding="max_length", max_length=77)["input_ids"]
    rows = clip_module.Vocabulary([267, 320, 786, 1281, 1611, 2866, 2225]).rows[torch.tensor([ids])]
    assert 0 in rows, "one word of the caption is outside the vocabulary"
    hidden, embedding = originals[1].text(rows)
    context, pooled = clip.encode_from_tokens(clip.tokenize(CAPTION), return_pooled=True)
    close(context, hidden)
    close(pooled, embedding)


def test_captions_become_the_tokens_of_the_training(in_comfy, clip, comfyui):
    from transformers import CLIPTokenizer

    captions = [
        "a young man, short brown hair, smiling, red striped shirt, plain blue background",
        "an old woman, bald, looking surprised, white shirt, blurred green background",
        "",
    ]
    tokenizer = CLIPTokenizer.from_pretrained(comfyui / "comfy" / "sd1_tokenizer")
    tokens = in_comfy.module("facecdm.demo.clip").CaptionTokens(tokenizer, captions)
    for caption, rows in zip(captions, tokens(captions), strict=True):
        theirs = torch.tensor([[token for token, _ in clip.tokenize(caption)["l"][0]]])
        assert torch.equal(tokens.vocabulary.rows[theirs][0], rows)


def test_prompt_weights_and_long_prompts(clip):
    plain = clip.encode_from_tokens(clip.tokenize(CAPTION))
    weighted = clip.encode_from_tokens(clip.tokenize("a young man, (short brown hair:1.5), smiling"))
    assert weighted.shape == plain.shape and not torch.allclose(weighted, plain)
    assert clip.encode_from_tokens(clip.tokenize("brown " * 100)).shape == (1, 154, 192)


def test_textual_inversion_embeddings(in_comfy, hosts, random_weights):
    import folder_paths
    from safetensors.torch import save_file

    folder = in_comfy.base / "models" / "embeddings"
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path("embeddings", str(folder))
    save_file({"emb_params": torch.ones(2, 192)}, folder / "mine.safetensors")
    clip = hosts.build_clip(random_weights)
    tokens = clip.tokenize("a man embedding:mine")["l"][0]
    assert sum(torch.is_tensor(token) for token, _ in tokens) == 2
    assert torch.isfinite(clip.encode_from_tokens(clip.tokenize("a man embedding:mine"))).all()


@torch.no_grad()
def test_the_vision_tower_is_that_of_transformers(hosts, random_weights, originals):
    vision = hosts.build_clip_vision(random_weights)
    vision.model.float()
    from comfy.clip_vision import clip_preprocess

    image = torch.rand(2, 128, 128, 3)
    output = vision.encode_image(image)
    theirs = originals[1].vision_tower(pixel_values=clip_preprocess(image, size=96), output_hidden_states=True)
    close(output["image_embeds"], theirs.image_embeds, 1e-3)  # ComfyUI keeps text and vision towers in fp16
    close(output["last_hidden_state"], theirs.last_hidden_state, 1e-2)
    assert output["penultimate_hidden_states"].shape == (2, 37, 192)


@torch.inference_mode()  # as the executor runs nodes
def test_the_vae_encodes_decodes_and_tiles(vae, originals):
    image = torch.rand(2, 128, 96, 3)
    latents = vae.encode(image)
    close(latents, originals[2].encode(image.movedim(-1, 1) * 2 - 1))
    expected = ((originals[2].decode(latents) + 1) / 2).clamp(0, 1).movedim(1, -1)
    close(vae.decode(latents), expected)
    tiled = vae.decode_tiled(latents, tile_x=8, tile_y=8, overlap=2)
    assert tiled.shape == expected.shape
    close(vae.encode_tiled(image, tile_x=64, tile_y=64, overlap=16), latents, 1e-4)


@pytest.mark.parametrize("kind", ["plain", "sharp"])
@torch.inference_mode()
def test_decoding_needs_a_few_of_the_largest_tensors(hosts, vae, request, kind):
    """The memory that core frees for it, beside the largest output of a layer."""
    if kind == "sharp":
        vae = hosts.build_vae(request.getfixturevalue("sharp")[0], torch.float32)
    latents, largest = torch.randn(1, vae.latent_channels, 16, 16), []
    watched = [
        module.register_forward_hook(lambda _, __, output: largest.append(output.nbytes))
        for module in vae.first_stage_model.modules()
        if not list(module.children())
    ]
    vae.decode(latents)
    for hook in watched:
        hook.remove()
    assert 2 <= vae.memory_used_decode(latents.shape, torch.float32) / max(largest) <= 4


def test_the_vae_crops_odd_sizes(vae):
    assert vae.encode(torch.rand(1, 131, 70, 3)).shape == (1, 48, 16, 8)


def test_the_preview_shows_the_mean_colour_of_a_patch(hosts, random_weights, vae, originals):
    import latent_preview

    form = hosts.DemoLatents(random_weights.vae)
    previewer = latent_preview.Latent2RGBPreviewer(form.latent_rgb_factors, form.latent_rgb_factors_bias)
    latents = torch.randn(1, 48, 16, 16) * 0.1
    picture = originals[2].unpatch(originals[2].decoder(latents))
    expected = torch.nn.functional.avg_pool2d((picture + 1) / 2, 8)[0].movedim(0, -1).clamp(0, 1)
    shown = torch.tensor(list(previewer.decode_latent_to_preview(latents).getdata())).view(16, 16, 3) / 255
    assert (shown - expected).abs().max() < 0.01


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_close(hosts, random_weights, originals, dtype):
    model = hosts.build_model(random_weights, dtype)
    noisy, context, sigma = torch.randn(1, 48, 16, 16), torch.randn(1, 77, 192), torch.tensor([1.0])
    whole = hosts.build_model(random_weights, torch.float32)
    with torch.no_grad():
        close(
            model.model.apply_model(noisy, sigma, c_crossattn=context),
            whole.model.apply_model(noisy, sigma, c_crossattn=context),
            0.05,
        )


def test_weights_of_another_shape_are_refused(in_comfy, hosts, random_weights):
    from dataclasses import replace

    bad = in_comfy.module("facecdm.errors").BadFile
    fewer = dict(list(random_weights.unet.items())[1:])
    with pytest.raises(bad, match="U-Net"):
        hosts.build_model(replace(random_weights, unet=fewer))
    with pytest.raises(bad, match="vocabulary"):
        hosts.build_clip(replace(random_weights, text={}))
    with pytest.raises(bad, match="autoencoder"):
        hosts.build_vae(replace(random_weights, vae=random_weights.text))


def test_loras_find_their_layers(model, clip):
    import comfy.lora

    keys = comfy.lora.model_lora_keys_unet(model.model, {})
    assert "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k" in keys
    assert any(key.startswith("lora_te") for key in comfy.lora.model_lora_keys_clip(clip.cond_stage_model, {}))


@pytest.fixture(scope="module")
def sharp(in_comfy, random_weights):
    """(weights, autoencoder) of a model with a decoder to twice the size, float32."""
    from dataclasses import replace

    sizes = replace(random_weights.sizes, image_size=256, decoder=(16, 16, 16))
    torch.manual_seed(3)
    autoencoder = in_comfy.module("facecdm.demo.autoencoder").build_autoencoder(sizes).eval()
    torch.nn.init.normal_(autoencoder.decoder.residual[-2].weight, std=0.05)
    return replace(random_weights, sizes=sizes, vae=autoencoder.state_dict()), autoencoder


@torch.no_grad()
def test_latents_of_a_sharp_model_are_an_eighth_of_the_picture(hosts, sharp, originals):
    weights, autoencoder = sharp
    model, vae = hosts.build_model(weights, torch.float32), hosts.build_vae(weights, torch.float32)
    assert model.model.latent_format.latent_channels == vae.latent_channels == 12
    image = torch.rand(2, 256, 192, 3)
    with torch.inference_mode():
        latents = vae.encode(image)
        assert latents.shape == (2, 12, 32, 24)
        inner = torch.nn.functional.pixel_unshuffle(latents, 2)
        close(inner, autoencoder.encode(image.movedim(-1, 1) * 2 - 1))
        close(vae.decode(latents), ((autoencoder.decode(inner) + 1) / 2).clamp(0, 1).movedim(1, -1))
        assert vae.encode(torch.rand(1, 264, 200, 3)).shape == (1, 12, 32, 24), "cropped to what the U-Net halves"
    noisy, context, level = torch.randn(2, 12, 32, 24), torch.randn(2, 77, 192), torch.tensor([3.0, 801.0])
    velocity = originals[0](torch.nn.functional.pixel_unshuffle(noisy, 2), level, context).sample
    expected = torch.nn.functional.pixel_shuffle(velocity, 2)
    close(model.model.diffusion_model(noisy, level, context=context), expected)
    odd = model.model.diffusion_model(torch.randn(1, 12, 33, 31), level[:1], context=context[:1])
    assert odd.shape == (1, 12, 33, 31)


def test_areas_of_a_sharp_model_hold_whole_positions(hosts, sharp):
    """A mask's bounds may begin at any latent; the U-Net joins latents in pairs."""
    model, x = hosts.build_model(sharp[0], torch.float32), torch.randn(1, 12, 16, 32)
    odd, even = (
        predict(model, x, 1.0, conditioning(torch.ones(1, 77, 192), area=area, strength=1.0))
        for area in ((15, 17, 1, 15), (16, 18, 0, 14))
    )
    assert odd[..., 14:].abs().max() > 0
    torch.testing.assert_close(odd[..., 14:], even[..., 14:])


@torch.no_grad()
def test_a_sharp_model_can_be_trained(in_comfy, hosts, sharp, originals):
    """Its latents have a quarter of the U-Net's channels, which is no inpainting model."""
    training, rows = (in_comfy.module(f"facecdm.{name}") for name in ("hosts.comfy.training.denoiser", "training.rows"))
    noisy, context, t = torch.randn(2, 12, 16, 24), torch.randn(2, 77, 192), torch.tensor([3, 801])
    with training.ComfyDenoiser(hosts.build_model(sharp[0], torch.float32)) as denoiser:
        predicted = denoiser.predict(noisy, t, rows.Prompt(context))
    assert denoiser.stride == 2
    velocity = originals[0](torch.nn.functional.pixel_unshuffle(noisy, 2), t, context).sample
    close(predicted, torch.nn.functional.pixel_shuffle(velocity, 2))


def test_previews_of_a_sharp_model(hosts, sharp):
    import latent_preview

    weights, autoencoder = sharp
    form = hosts.DemoLatents(weights.vae, weights.sizes.shuffle)
    previewer = latent_preview.Latent2RGBPreviewer(
        form.latent_rgb_factors, form.latent_rgb_factors_bias, form.latent_rgb_factors_reshape
    )
    inner = torch.randn(1, 48, 16, 16) * 0.1
    with torch.no_grad():
        picture = torch.nn.functional.pixel_shuffle(autoencoder.decoder.linear(inner), 8)
    expected = torch.nn.functional.avg_pool2d((picture + 1) / 2, 8)[0].movedim(0, -1).clamp(0, 1)
    latents = torch.nn.functional.pixel_shuffle(inner, 2)
    shown = torch.tensor(list(previewer.decode_latent_to_preview(latents).getdata())).view(16, 16, 3) / 255
    assert (shown - expected).abs().max() < 0.01
