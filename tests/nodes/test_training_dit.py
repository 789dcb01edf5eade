"""New Adapter, Prepare Data Set, Train and Apply on small DiTs, as the executor runs them."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass

import flux
import flux_comfy
import pytest
import qwen_image
import sd35
import torch
import z_image
from tensors import close
from twins import predict

from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.latents import with_frames

SMALL = dict(face_tokens=2, image_tokens=2, face_rank=8, interplay=True, seed=0)
SETTINGS = {
    "warmup": 0,
    "learning_rate": 1e-2,
    "identity": 0.1,
    "identity_below": 1000,
    "identity_every": 2,
    "contrast": 0.0,
    "checkpointing": True,
    "localisation": 0.01,
    "alignment": 0.1,
    "background": 0.1,
    "lora_rank": 2,
}


@dataclass(frozen=True)
class Kind:
    """A base model: its MODEL, CLIP and VAE, how long the prompts of its data set are, and a layer of its LoRA."""

    make: Callable
    clip: Callable
    vae: Callable
    pooled: bool
    lengths: range
    layer: str


KINDS = {
    "flux": Kind(
        flux.make_flux,
        lambda: flux_comfy.make_clip("Flux"),
        flux_comfy.make_vae,
        True,
        range(256, 257),
        "single_blocks.0.linear1",
    ),
    "chroma": Kind(
        flux.make_chroma,
        lambda: flux_comfy.make_clip("Chroma"),
        flux_comfy.make_vae,
        False,
        range(1, 256),
        "single_blocks.0.linear1",
    ),
    "sd35": Kind(
        lambda: sd35.make_model(text=4096),
        sd35.make_clip,
        flux_comfy.make_vae,
        True,
        range(77, 78),
        "joint_blocks.0.x_block.attn.qkv",
    ),
    "qwen_image": Kind(
        qwen_image.make_model,
        qwen_image.make_clip,
        qwen_image.make_vae,
        False,
        range(1, 100),
        "transformer_blocks.0.attn.to_q",
    ),
    "z_image": Kind(
        z_image.make_model,
        z_image.make_clip,
        flux_comfy.make_vae,
        False,
        range(1, 100),
        "layers.0.attention.qkv",
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def kind(in_comfy, request):
    if request.param == "z_image" and not z_image.blocks_are_patched():
        pytest.skip("this ComfyUI calls no patches after the blocks of Z-Image; 0.33 does")
    return KINDS[request.param]


@pytest.fixture(scope="module")
def model(kind):
    return kind.make()


@pytest.fixture(scope="module")
def parts(kind):
    with torch.inference_mode():
        return kind.clip(), kind.vae()


@pytest.fixture(scope="module")
def analyzer(in_comfy):
    return in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="auto", landmarks=False)[0]


@pytest.fixture(scope="module")
def data(in_comfy, model, parts, analyzer, faceworld_val):
    clip, vae = parts
    name = type(model.model).__name__
    shutil.copytree(faceworld_val / "0005", in_comfy.base / "input" / name / "0005")
    inputs = {
        one.id: getattr(one, "default", None)
        for one in in_comfy.nodes["FaceCDMPrepareDataSet"].GET_SCHEMA().inputs
        if not one.optional
    }
    inputs |= {"model": model, "clip": clip, "vae": vae, "analyzer": analyzer, "folder": name, "name": name}
    return in_comfy.run("FaceCDMPrepareDataSet", **inputs | {"resolution": 64})[0]


def test_the_data_set_holds_what_the_model_reads(kind, model, data):
    assert data.latent_shape(0) == (16, 8, 8) and data.manifest.dit and data.manifest.pooled is kind.pooled
    prompt, width = data.load([0]).prompt, layer_map(model).context
    assert (prompt.pooled is not None) is kind.pooled and prompt.states.shape[-1] == width
    assert prompt.lengths.tolist() == [prompt.states.shape[1]] and int(prompt.lengths) in kind.lengths


def test_new_train_save_apply(in_comfy, kind, model, parts, analyzer, data, make_faces):
    adapter, report = in_comfy.run("FaceCDMNewAdapter", model=model, **SMALL)
    count = len(layer_map(model).layers)
    assert f"cells after {count} of {count} blocks" in report and "exact no-op" in report
    shared = {
        "model": model,
        "adapter": adapter,
        "data_set": data,
        "run": type(model.model).__name__,
        "preset": "one person",
        "length": 0.01,
        "batch": 2,
        "seed": 0,
    }
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    result = in_comfy.run("FaceCDMTrain", **shared, vae=parts[1], face_analyzer=analyzer, settings=SETTINGS)
    trained, lora, losses, _, pictures, report, _ = result
    assert "rank 0" in report and pictures.shape[-1] == 3 and len(losses["loss"]) == 14
    assert "\nidentity: " in report, "InsightFace's recogniser took part"
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())
    assert any(name.startswith(f"diffusion_model.{kind.layer}") for name in lora)
    for name, value in trained.state_dict().items():
        assert torch.isfinite(value).all(), name
    assert trained.streams["face"].queries[0].to_out.weight.any()
    assert in_comfy.run("FaceCDMSaveAdapter", adapter=trained, name=shared["run"], overwrite=True)
    loaded, report, _ = in_comfy.run("FaceCDMLoadAdapter", name=f"{shared['run']}.safetensors")
    assert "untrained" not in report

    x, prompt = with_frames(flux.latents((8, 8)), model.model.latent_format), flux.prompt(model)
    plain = predict(model, x, 0.7, prompt)
    faces = make_faces(recogniser=data.recogniser)
    for one, equal in ((adapter, True), (loaded, False)):
        shown = predict(applied(in_comfy, model, one, faces), x, 0.7, prompt)
        assert torch.equal(shown, plain) is equal
    close(predict(with_lora(model, lora, 0.0), x, 0.7, prompt), plain)
    assert (predict(with_lora(model, lora, 1.0), x, 0.7, prompt) - plain).abs().max() > 0


def test_decoding_has_gradients(kind, model, parts):
    """For the identity loss; the pixels are those of core's VAE."""
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser

    latents = flux.latents((4, 4), batch=2).requires_grad_(True)
    with ComfyDitDenoiser(model, parts[1]) as denoiser:
        pixels = denoiser.decode(latents)
        pixels.square().mean().backward()
    assert pixels.shape == (2, 3, 32, 32) and torch.isfinite(latents.grad).all() and latents.grad[1].any()
    latent_format = model.model.latent_format
    with torch.inference_mode():
        own = parts[1].decode(latent_format.process_out(with_frames(latents.detach(), latent_format)))
    close(pixels.detach().movedim(1, -1).clamp(-1, 1) / 2 + 0.5, own.reshape(2, 32, 32, 3).clone(), 1e-4)


def with_lora(model, lora, strength: float):
    """The MODEL with the LoRA, by core's own loader."""
    import comfy.sd

    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(lora), strength, 0)
    assert len(patched.patches) == len(lora) // 3
    return patched


def applied(in_comfy, model, adapter, faces):
    """The MODEL of Apply FaceCDM with its defaults."""
    inputs = in_comfy.nodes["FaceCDMApply"].define_schema().inputs
    defaults = {one.id: one.default for one in inputs if getattr(one, "default", None) is not None}
    return in_comfy.run("FaceCDMApply", **defaults | {"model": model, "adapter": adapter, "faces": faces})[0]
