"""The demo's perturbed-attention guidance, against a U-Net whose self-attentions are replaced by hand."""

import pytest
import torch

SIGMA, SCALE, CFG = 5.0, 1.5, 4.0


@pytest.fixture(scope="module")
def demo(hosts, random_weights):
    return hosts.build(random_weights)


@pytest.fixture(scope="module")
def guided(in_comfy):
    return in_comfy.module("facecdm.hosts.comfy.demo.guidance").guided


def prediction(demo, model, cfg=CFG, sigma=SIGMA, side=16):
    """The clean latents of two pictures, from one step."""
    import comfy.sample

    text = demo.clip.encode_from_tokens(demo.clip.tokenize("a young man, bald"))
    latent = torch.zeros(2, model.model.latent_format.latent_channels, side, side)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        return comfy.sample.sample(
            model,
            noise,
            1,
            cfg,
            "euler",
            "karras",
            [[text, {}]],
            [[text * 0, {}]],
            latent,
            sigmas=torch.tensor([sigma, 0.0]),
            disable_pbar=True,
        )


@pytest.fixture(scope="module")
def without_attention(hosts, random_weights):
    """A MODEL whose self-attentions see one position each."""
    model = hosts.build_model(random_weights)
    for name, module in model.model.diffusion_model.named_modules():
        if name.endswith("attn1"):
            module.forward = lambda x, *_, own=module, **__: own.to_out(own.to_v(x))
    return model


def test_it_moves_away_from_a_u_net_without_self_attention(demo, guided, without_attention):
    plain, shown = prediction(demo, demo.model), prediction(demo, demo.model, cfg=1)
    worse = prediction(demo, without_attention, cfg=1)
    expected = plain + SCALE * (shown - worse)
    assert (shown - worse).abs().max() > 0.1 * shown.abs().max(), "the perturbation is seen"
    torch.testing.assert_close(prediction(demo, guided(demo.model, SCALE)), expected, rtol=1e-3, atol=1e-3)


def test_it_does_not_act_above_its_noise_level(in_comfy, demo, guided):
    high = 2 * in_comfy.module("facecdm.bases.demo").GUIDED_BELOW
    assert torch.equal(prediction(demo, guided(demo.model), sigma=high), prediction(demo, demo.model, sigma=high))


def test_the_middle_block_alone_is_not_enough(in_comfy, hosts, guided):
    """Core's own node perturbs only that, so the demo does not use it."""
    import comfy_extras.nodes_pag

    with torch.inference_mode():
        demo = hosts.load()
    plain = prediction(demo, demo.model, side=32)
    (by_core,) = comfy_extras.nodes_pag.PerturbedAttentionGuidance.execute(demo.model, SCALE).result
    changes = [(prediction(demo, model, side=32) - plain).norm() for model in (by_core, guided(demo.model, SCALE))]
    assert 0 < 5 * changes[0] < changes[1]


def test_scale_0_is_the_model_itself(demo, guided):
    assert guided(demo.model, 0) is demo.model
    assert not demo.model.model_options.get("sampler_post_cfg_function"), "the model is not changed"


def test_the_worse_u_net_shows_nobody(in_comfy, demo, guided, without_attention):
    """So that the guidance strengthens a person instead of leaving them as they are."""
    with torch.inference_mode():
        patched = person_on(in_comfy, demo.model)
        plain, shown = prediction(demo, patched), prediction(demo, patched, cfg=1)
        worse = prediction(demo, without_attention, cfg=1)
        assert (shown - prediction(demo, demo.model, cfg=1)).abs().max() > 1e-3, "the person is seen"
        result = prediction(demo, person_on(in_comfy, guided(demo.model, SCALE)))
    torch.testing.assert_close(result, plain + SCALE * (shown - worse), rtol=1e-3, atol=1e-3)


def person_on(in_comfy, model):
    """MODEL with a person whose adapter's output projections are not zero."""
    adapters, layers = in_comfy.module("facecdm.adapter.model"), in_comfy.module("facecdm.hosts.comfy.unet")
    config = in_comfy.module("facecdm.adapter.config").AdapterConfig(layers.layer_map(model), face_tokens=4)
    torch.manual_seed(3)
    adapter = adapters.TripletAdapter(config).requires_grad_(False)
    for value in adapter.parameters():
        value.normal_(0, 0.3)
    person = in_comfy.module("facecdm.adapter.person").Person(
        adapter, torch.nn.functional.normalize(torch.ones(1, 512), dim=1)
    )
    return in_comfy.module("facecdm.hosts.comfy.sampling.apply").apply_person(model, person)
