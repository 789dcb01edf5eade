"""An adapter that finds the face by itself, in ComfyUI's own sampling, is like one that is told where it is."""

from dataclasses import replace

import pytest
import torch

WHERE = torch.tensor([[[0.40, 0.42], [0.58, 0.42], [0.49, 0.52], [0.42, 0.62], [0.57, 0.62]]])


@pytest.fixture(scope="module")
def shown(in_comfy, hosts):
    """(MODEL with the shipped LoRA, the shipped adapter with an untrained location head)."""
    host = in_comfy.module("facecdm.hosts.comfy.demo.adapter")
    with torch.inference_mode():
        demo = hosts.load()
        model, adapter = host.load(demo.model)
        channels = demo.model.model.model_config.unet_config["in_channels"]
        finding = in_comfy.module("facecdm.adapter.model").TripletAdapter(
            replace(adapter.config, location_channels=channels)
        )
        own = {name: value for name, value in adapter.state_dict().items() if not name.startswith("location_head.")}
        missing = finding.load_state_dict(own, strict=False).missing_keys
    assert missing and all(name.startswith("location_head.") for name in missing)
    return demo, model, finding.requires_grad_(False)


def sample(in_comfy, demo, model, adapter, pictures=1, **person):
    import comfy.sample

    shown = in_comfy.module("facecdm.adapter.person").Person(
        adapter, torch.nn.functional.normalize(torch.ones(1, 512), dim=1), **person
    )
    patched = in_comfy.module("facecdm.hosts.comfy.sampling.apply").apply_person(model, shown)
    text = demo.clip.encode_from_tokens(demo.clip.tokenize("a young man, bald"))
    latent = torch.zeros(pictures, patched.model.latent_format.latent_channels, 16, 16)
    noise = comfy.sample.prepare_noise(latent, 7)
    with torch.inference_mode():
        return comfy.sample.sample(
            patched, noise, 4, 3.0, "euler", "karras", [[text, {}]], [[text * 0, {}]], latent, disable_pbar=True
        )


def second_sigma(model) -> float:
    import comfy.samplers

    return float(comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "karras", 4)[1])


@pytest.mark.parametrize("pictures", [1, 2])
def test_a_trusted_estimate_acts_as_a_given_location(in_comfy, shown, monkeypatch, pictures):
    """From the second step on, since the first has no prediction yet."""
    demo, model, adapter = shown
    calls = []

    def locate(clean, sigma, region):
        calls.append((clean.shape, float(sigma.max())))
        return WHERE.expand(len(clean), -1, -1), torch.ones(len(clean))

    monkeypatch.setattr(adapter, "locate", locate)
    monkeypatch.setattr(in_comfy.module("facecdm.adapter.location_finder"), "HIGHEST", float("inf"))
    found = sample(in_comfy, demo, model, adapter, pictures)
    given = sample(in_comfy, demo, model, adapter, pictures, keypoints=WHERE, sigma_start=second_sigma(model) * 1.001)
    assert len(calls) == 3 and all(shape[0] == pictures for shape, _ in calls)
    assert torch.allclose(found, given, atol=2e-3 * given.abs().max().item())


def test_the_location_is_found_in_the_first_call_of_a_step(in_comfy, shown, monkeypatch):
    """A guidance such as PAG calls the U-Net again in the same step, with a prediction that is bad on purpose."""
    import comfy.samplers

    demo, model, adapter = shown
    seen = []
    monkeypatch.setattr(in_comfy.module("facecdm.adapter.location_finder"), "HIGHEST", float("inf"))
    monkeypatch.setattr(adapter, "locate", lambda clean, *_: seen.append(clean) or (WHERE, torch.ones(1)))
    extra = []

    def guidance(args):
        (again,) = comfy.samplers.calc_cond_batch(
            args["model"], [args["cond"]], args["input"], args["sigma"], args["model_options"]
        )
        extra.append((args["cond_denoised"], again))
        return args["denoised"]

    patched = model.clone()
    patched.set_model_sampler_post_cfg_function(guidance)
    sample(in_comfy, demo, patched, adapter)
    assert len(seen) == 3 and len(extra) == 4
    for located, (first, again) in zip(seen, extra):
        assert torch.equal(located, first)
        assert torch.allclose(first, again, atol=1e-5), "the same people act in both calls"


def test_an_untrusted_estimate_leaves_the_base_model(in_comfy, shown, monkeypatch):
    demo, model, adapter = shown
    monkeypatch.setattr(adapter, "locate", lambda *calls: (WHERE, torch.zeros(1)))
    without_person = sample(in_comfy, demo, model, adapter, sigma_start=0.0)
    assert torch.allclose(sample(in_comfy, demo, model, adapter), without_person, atol=1e-5)


def test_given_key_points_override_the_estimate(in_comfy, shown, monkeypatch):
    demo, model, adapter = shown

    def fail(*calls):
        raise AssertionError("the location is known")

    monkeypatch.setattr(adapter, "locate", fail)
    assert torch.isfinite(sample(in_comfy, demo, model, adapter, keypoints=WHERE)).all()


def test_the_head_is_kept_in_the_adapters_file(in_comfy, shown, tmp_path):
    native = in_comfy.module("facecdm.adapter.native")
    path = native.save_adapter(shown[2], tmp_path, "finds")
    again = native.load_adapter(path)
    clean, sigma = torch.randn(2, 48, 16, 16), torch.tensor([3.0])
    for one, other in zip(again.locate(clean, sigma), shown[2].locate(clean, sigma)):
        assert torch.equal(one, other)
    shuffled = torch.nn.functional.pixel_shuffle(clean, 2)
    assert torch.equal(again.locate(shuffled, sigma)[0], again.locate(clean, sigma)[0])
