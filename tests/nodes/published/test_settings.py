"""FaceCDM Apply Options and curves on published adapters."""

import pytest
import torch
from published_nodes import person


def test_default_options_change_nothing(load, apply, noise):
    adapter = load("ip-adapter-plus")
    assert noise(apply(adapter, options={}), cfg=4.0).equal(noise(apply(adapter), cfg=4.0))


def test_balance_moves_between_prompt_and_identity(in_comfy, load, apply):
    setting = {
        balance: person(in_comfy, apply(load("faceid"), options={"balance": balance})).settings["face"]
        for balance in (-1.0, -0.5, 0.0, 0.5, 1.0)
    }
    strengths = [setting[balance].strength for balance in sorted(setting)]
    assert strengths == sorted(strengths) and strengths[2] == 1.0 and strengths[0] == 0.5 and strengths[-1] == 1.5
    assert [setting[balance].kappa for balance in sorted(setting)] == [0.5, 0.25, 0, 0, 0]


def test_structure_is_the_shortcut_of_plusv2(load, apply, noise):
    for family, responds in (("faceid-plusv2", True), ("faceid-plus", False)):
        adapter = load(family, family)
        plain, less = apply(adapter), apply(adapter, options={"structure": 0.3})
        assert noise(plain).equal(noise(less)) != responds


def test_strength_over_the_steps(load, apply, sd15, noise):
    adapter = load("faceid", "auto")
    rest = {"lora_strength": 0.0}
    fading, full = apply(adapter, options=rest | {"over_steps": "1, 0"}), apply(adapter, options=rest)
    half = apply(adapter, options=rest, face_strength=0.5)
    sampling = sd15.get_model_object("model_sampling")
    for percent, same in ((0.0, full), (0.5, half), (1.0, sd15)):
        sigma = (
            float(sampling.percent_to_sigma(percent))
            if 0 < percent < 1
            else float(sampling.sigma_min if percent else sampling.sigma_max)
        )
        torch.testing.assert_close(noise(fading, sigma), noise(same, sigma), rtol=0, atol=2e-3)
    assert noise(apply(adapter, options=rest | {"over_steps": "flat"})).equal(noise(full))


def test_a_curve_for_the_image_alone(in_comfy, load, apply):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter-plus"))
    settings = person(
        in_comfy, apply(both, curve="ease in", options={"image_curve": "custom", "image_custom_curve": "0.5"})
    ).settings
    assert settings["face"].curve[0] == 0.0 and set(settings["image"].curve) == {0.5}


def test_cfg_rescale_is_cores(in_comfy, load, apply, noise):
    from comfy_extras.nodes_model_advanced import RescaleCFG

    adapter = load("ip-adapter-plus")
    core = RescaleCFG().patch(apply(adapter), 0.7)[0]
    ours = apply(adapter, options={"cfg_rescale": 0.7})
    for batch in (1, 2):
        torch.testing.assert_close(
            noise(ours, cfg=7.0, batch=batch), noise(core, cfg=7.0, batch=batch), rtol=0, atol=1e-3
        )
    assert not noise(ours, cfg=7.0).equal(noise(apply(adapter), cfg=7.0))


def test_cfg_is_rescaled_once_by_the_largest(load, apply, noise):
    adapter = load("ip-adapter-plus")

    def chain(*amounts):
        model = None
        for amount in amounts:
            more = {} if model is None else {"model": model}
            model = apply(adapter, options={"cfg_rescale": amount}, **more)
        return model

    once = noise(chain(0.0, 0.7), cfg=7.0)
    for amounts in ((0.7, 0.7), (0.7, 0.3), (0.3, 0.7)):
        model = chain(*amounts)
        torch.testing.assert_close(noise(model, cfg=7.0), once)
        assert len(model.model_options["sampler_post_cfg_function"]) == 1
    assert not noise(chain(0.0, 0.3), cfg=7.0).equal(once)
    first = chain(0.3)
    apply(adapter, model=first, options={"cfg_rescale": 0.7})
    assert first.model_options["sampler_post_cfg_function"][0].amount == 0.3, "the model that came in is unchanged"


@pytest.mark.parametrize(
    ("name", "text"), [("over_steps", "x"), ("reference_weights", "1, b"), ("image_custom_curve", "3:a")]
)
def test_a_wrong_text_is_named_by_its_input(in_comfy, load, apply, name, text):
    good = {"over_steps": "0, 1", "reference_weights": "1", "image_curve": "custom", "image_custom_curve": "0, 1"}
    apply(load("ip-adapter-plus"), options=good)
    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match=f"^{name} '{text}'"):
        apply(load("ip-adapter-plus"), options=good | {name: text})
