"""Load FaceCDM Demo Model among core's own nodes."""

import sys
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture
def node(in_comfy, weights_file, monkeypatch):
    monkeypatch.setenv("FACECDM_DEMO_WEIGHTS", str(weights_file))
    return in_comfy.module("nodes.demo").LoadDemoModel


@pytest.fixture(scope="module")
def loaded(hosts, random_weights):
    demo = hosts.build(random_weights)
    return demo.model, demo.clip, demo.vae, demo.clip_vision


def run(node):
    with torch.inference_mode():
        return node.PREPARE_CLASS_CLONE(None).EXECUTE_NORMALIZED().result


@pytest.mark.parametrize(
    "sampler,scheduler",
    [("euler", "sgm_uniform"), ("dpmpp_2m", "simple"), ("euler_ancestral", "normal"), ("dpmpp_2m", "karras")],
)
def test_a_picture_by_core_nodes(loaded, sampler, scheduler):
    import nodes

    model, clip, vae, _ = loaded
    with torch.inference_mode():
        prompt, none = (nodes.CLIPTextEncode().encode(clip, text)[0] for text in ("a young man, smiling", ""))
        latent = nodes.EmptyLatentImage().generate(128, 128, 2)[0]
        latent = nodes.KSampler().sample(model, 1, 2, 3.0, sampler, scheduler, prompt, none, latent)[0]
        image = nodes.VAEDecode().decode(vae, latent)[0]
    assert latent["samples"].shape == (2, 48, 16, 16)
    assert image.shape == (2, 128, 128, 3)
    assert torch.isfinite(image).all() and 0 <= image.min() <= image.max() <= 1


def test_image_to_image(loaded):
    import nodes

    model, clip, vae, vision = loaded
    picture = torch.linspace(0, 1, 128).view(1, 128, 1, 1).expand(1, 128, 128, 3)
    with torch.inference_mode():
        prompt = nodes.CLIPTextEncode().encode(clip, "")[0]
        latent = nodes.VAEEncode().encode(vae, picture)[0]
        little, much = (
            nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "simple", prompt, prompt, latent, denoise=denoise)[0][
                "samples"
            ]
            for denoise in (0.02, 0.9)
        )
        encoded = nodes.CLIPVisionEncode().encode(vision, picture, "center")[0]
    change = [(samples - latent["samples"]).norm() for samples in (little, much)]
    assert 0 < change[0] < change[1] / 2, "a little denoising keeps the picture, even with weights that know nothing"
    assert encoded.image_embeds.shape == (1, 192)


def test_a_mask_is_no_extra_channel(loaded):
    import nodes

    model, clip, vae, _ = loaded
    with torch.inference_mode():
        prompt = nodes.CLIPTextEncode().encode(clip, "")[0]
        latent = nodes.VAEEncode().encode(vae, torch.rand(1, 128, 128, 3))[0]
        masked = nodes.SetLatentNoiseMask().set_mask(
            latent, torch.cat([torch.zeros(1, 64, 128), torch.ones(1, 64, 128)], 1)
        )[0]
        out = nodes.KSampler().sample(model, 1, 2, 1.0, "euler", "sgm_uniform", prompt, prompt, masked)[0]
    torch.testing.assert_close(out["samples"][:, :, :6], latent["samples"][:, :, :6], rtol=1e-3, atol=1e-3)


def test_it_loads_all_four(hosts, node):
    import comfy.sd

    model, clip, vae, vision = run(node)
    assert isinstance(clip, comfy.sd.CLIP) and isinstance(vae, comfy.sd.VAE)
    assert model.model.latent_format.latent_channels == vae.latent_channels == 48
    assert vision.image_size == 96


def test_the_description_lists_the_known_captions(node, in_comfy):
    schema = node.GET_SCHEMA()
    assert schema.node_id == "FaceCDMLoadDemoModel" and schema.inputs == []
    assert in_comfy.module("nodes.demo").SIZE in schema.description and "blue background" in schema.description
    assert [output.io_type for output in schema.outputs] == ["MODEL", "CLIP", "VAE", "CLIP_VISION"]


def test_it_loads_again_only_when_the_file_changes(node, weights_file):
    before = node.fingerprint_inputs()
    assert node.fingerprint_inputs() == before
    weights_file.write_bytes(weights_file.read_bytes() + b" ")
    assert node.fingerprint_inputs() != before
    weights_file.unlink()
    node.fingerprint_inputs()


def test_a_missing_file_is_named(in_comfy, node, weights_file):
    weights_file.unlink()
    with pytest.raises(in_comfy.module("facecdm.errors").MissingModel, match="demo"):
        run(node)


def test_unknown_words_are_shown_on_the_node_that_encodes_them(in_comfy, node, monkeypatch, caplog):
    """With the weights' own vocabulary."""
    import nodes

    sent = []
    server = SimpleNamespace(client_id="me", last_node_id="12:3", send_sync=lambda *message: sent.append(message))
    module = SimpleNamespace(PromptServer=SimpleNamespace(instance=server))
    monkeypatch.setitem(sys.modules, "server", module)
    clip = run(node)[1]
    known = clip.tokenizer.vocabulary.token_ids
    word = next(
        letters.removesuffix("</w>")
        for letters in (clip.tokenizer.clip_l.inv_vocab[token] for token in known)
        if letters.endswith("</w>") and letters[0].isalpha() and len(letters) > 6
    )
    with torch.inference_mode():
        for text in (f"{word}, (zeppelin:1.2), quokka zeppelin", word):
            nodes.CLIPTextEncode().encode(clip, text)
    assert [(event, data["node"], client) for event, data, client in sent] == [("facecdm_warnings", "12:3", "me")]
    (text,) = sent[0][1]["warnings"]
    assert "does not know: zeppelin, quokka." in text
    assert "zeppelin, quokka" in caplog.text
