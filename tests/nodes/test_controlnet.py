"""Apply FaceCDM to ControlNet: face tokens where a ControlNet would read the text, as diffusers would have it."""

from types import SimpleNamespace

import pytest
import torch
from control_twins import cldm_keys, held, make_control_twins
from twins import SMALL_SDXL, conditioning, make_twins, predict

SIGMA, SIZE = 2.0, (8, 12)


def randn(*shape, seed: int = 0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def twins(in_comfy):
    return make_twins(SMALL_SDXL)


@pytest.fixture(scope="module")
def control(in_comfy):
    return make_control_twins(SMALL_SDXL, seed=1)


@pytest.fixture(scope="module")
def pose(in_comfy):
    """Another ControlNet, which reads the text."""
    return make_control_twins(SMALL_SDXL, seed=2)


@pytest.fixture(scope="module")
def host(in_comfy):
    return in_comfy.module("facecdm.hosts.comfy.control.face_control")


@pytest.fixture(scope="module")
def x():
    return randn(2, 4, *SIZE, seed=3) * SIGMA


@pytest.fixture(scope="module")
def picture():
    return torch.rand(1, SIZE[0] * 8, SIZE[1] * 8, 3, generator=torch.Generator().manual_seed(4))


WORDS = {name: (randn(1, 77, 128, seed=seed), randn(1, 1280, seed=seed + 1)) for name, seed in (("a", 10), ("b", 20))}
TOKENS = {name: randn(1, 16, 128, seed=seed) for name, seed in (("face", 30), ("empty", 31), ("other", 32))}


def prompt(name: str):
    return conditioning(*WORDS[name], height=SIZE[0] * 8, width=SIZE[1] * 8)


def same(ours, theirs):
    assert torch.isfinite(ours).all()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * theirs.abs().max().item())


def tokens(name: str):
    return lambda text: TOKENS[name]


def test_without_faces_the_twins_agree(in_comfy, twins, control, x, picture):
    import nodes

    positive, _ = nodes.ControlNetApplyAdvanced().apply_controlnet(
        prompt("a"), prompt("b"), control.net, picture, 0.7, 0.0, 1.0
    )
    text, pooled = WORDS["a"]
    same(predict(twins.model, x, SIGMA, positive), control.diffusers(twins, x, SIGMA, text, text, picture, pooled, 0.7))


def test_tokens_in_place_of_the_text(host, twins, control, x, picture):
    positive, negative = host.control_with_faces(
        prompt("a"), prompt("b"), control.net, picture, tokens("face"), tokens("empty"), 0.7, 0.0, 1.0
    )
    ours = predict(twins.model, x, SIGMA, positive, negative, cfg=3.0)
    a, b = (
        control.diffusers(twins, x, SIGMA, WORDS[name][0], TOKENS[own], picture, WORDS[name][1], 0.7)
        for name, own in (("a", "face"), ("b", "empty"))
    )
    same(ours, b + 3.0 * (a - b))
    without = control.diffusers(twins, x, SIGMA, WORDS["a"][0], WORDS["a"][0], picture, WORDS["a"][1], 0.7)
    assert (a - without).abs().max() > 0.01 * a.abs().max(), "the tokens make a difference"


def test_each_controlnet_of_a_chain_reads_its_own_tokens(in_comfy, host, twins, control, pose, x, picture):
    """Core's `cross_attn_controlnet` would show one person's tokens to all nets, pose nets too."""
    import nodes

    both = prompt("a"), prompt("b")
    both = nodes.ControlNetApplyAdvanced().apply_controlnet(*both, pose.net, 1 - picture, 0.5, 0.0, 1.0)
    both = host.control_with_faces(*both, control.net, picture, tokens("face"), tokens("empty"), 0.7, 0.0, 1.0)
    both = host.control_with_faces(*both, control.net, picture, tokens("other"), tokens("empty"), 0.4, 0.0, 1.0)
    both = nodes.ControlNetApplyAdvanced().apply_controlnet(*both, pose.net, picture, 0.3, 0.0, 1.0)
    ours = predict(twins.model, x, SIGMA, *both)

    text, pooled = WORDS["a"]
    links = [
        (pose, text, 1 - picture, 0.5),
        (control, TOKENS["face"], picture, 0.7),
        (control, TOKENS["other"], picture, 0.4),
        (pose, text, picture, 0.3),
    ]
    residuals = [net.residuals(twins, x, SIGMA, read, hint, pooled, strength) for net, read, hint, strength in links]
    same(ours, held(twins, x, SIGMA, text, [sum(values) for values in zip(*residuals)], pooled))


def test_both_sides_share_a_batch(host, twins, control, x, picture):
    import comfy.patcher_extension

    calls = []

    def count(executor, x, *args, **kwargs):
        calls.append(len(x))
        return executor(x, *args, **kwargs)

    model = twins.model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "count", count)
    both = host.control_with_faces(
        prompt("a"), prompt("b"), control.net, picture, tokens("face"), tokens("empty"), 1.0, 0.0, 1.0
    )
    predict(model, x, SIGMA, *both, cfg=3.0)
    assert calls == [4]


def test_a_mask_weighs_what_the_net_says(host, twins, control, x, picture):
    mask = torch.zeros(1, SIZE[0] * 8, SIZE[1] * 8)
    mask[:, :, :40] = 1.0
    positive, _ = host.control_with_faces(
        prompt("a"), prompt("b"), control.net, picture, tokens("face"), tokens("empty"), 0.7, 0.0, 1.0, mask
    )
    text, pooled = WORDS["a"]

    def weigh(value):
        return value * torch.nn.functional.interpolate(mask[None], value.shape[-2:], mode="area")[0]

    same(
        predict(twins.model, x, SIGMA, positive),
        control.diffusers(twins, x, SIGMA, text, TOKENS["face"], picture, pooled, 0.7, weigh),
    )


@pytest.mark.parametrize("side", [0, 1])
def test_an_area_gets_its_part_of_the_mask(host, twins, control, x, picture, side):
    """In a conditioning for the left half, a mask of the left half is everywhere and one of the right half nowhere."""
    import nodes

    width = SIZE[1] * 4
    mask = torch.zeros(1, SIZE[0] * 8, 2 * width)
    mask[..., side * width : (side + 1) * width] = 1.0

    def left(given, strength=0.7):
        positive, _ = host.control_with_faces(
            prompt("a"), prompt("b"), control.net, picture, tokens("face"), tokens("empty"), strength, 0.0, 1.0, given
        )
        (area,) = nodes.ConditioningSetArea().append(positive, width, SIZE[0] * 8, 0, 0, 1.0)
        return predict(twins.model, x, SIGMA, area)[..., : SIZE[1] // 2]

    everywhere, nowhere = left(None), left(None, 0.0)
    assert not torch.allclose(everywhere, nowhere, atol=1e-3)
    same(left(mask), nowhere if side else everywhere)


def test_the_pictures_size_is_the_runs_where_people_are_applied(host, in_comfy):
    """A mask of any size is cut by it; without people the mask is taken to have the picture's own size."""
    mask = torch.zeros(1, 30, 50)
    mask[..., 25:] = 1.0
    link, areas = host.FaceControl(None, "", mask), torch.tensor([[8, 4, 0, 4], [8, 4, 0, 8], [8, 4, 0, 12]])
    run = in_comfy.module("facecdm.hosts.comfy.sampling.run")
    parts = link._mask_for(torch.zeros(3, 4, 8, 4), areas, {run.RUN: SimpleNamespace(size=(8, 16))})
    assert parts.shape == (3, 8, 4) and parts.mean((1, 2)).tolist() == [0, 1, 1]


def test_a_mask_smaller_than_the_areas_is_enlarged_to_hold_them(host):
    """Without people the picture is at least as large as the end of each area, in latents."""
    mask = torch.zeros(1, 32, 48)
    mask[..., 24:] = 1.0
    areas = torch.tensor([[8, 4, 0, 4], [8, 4, 0, 8], [8, 4, 0, 12]])
    parts = host.FaceControl(None, "", mask)._mask_for(torch.zeros(3, 4, 8, 4), areas, {})
    assert parts.shape == (3, 8, 4) and parts.mean((1, 2)).tolist() == [0, 1, 1]


def test_the_net_adds_nothing_before_start_and_after_end(host, twins, control, x, picture):
    plain = predict(twins.model, x, SIGMA, prompt("a"))
    model_sampling = twins.model.get_model_object("model_sampling")
    acts = []
    for start, end in ((0.0, 0.3), (0.3, 1.0), (0.0, 1.0)):
        positive, _ = host.control_with_faces(
            prompt("a"), prompt("b"), control.net, picture, tokens("face"), tokens("empty"), 0.7, start, end
        )
        acts.append(not predict(twins.model, x, SIGMA, positive).equal(plain))
        within = model_sampling.percent_to_sigma(end) <= SIGMA <= model_sampling.percent_to_sigma(start)
        assert acts[-1] == within
    assert True in acts and False in acts


@pytest.fixture(scope="module")
def control_lora(control):
    """A net that borrows its encoder from the model that it is applied to."""
    import comfy.controlnet

    own = {
        key: value
        for key, value in cldm_keys(control.model.state_dict(), SMALL_SDXL).items()
        if key.startswith(("zero_convs", "input_hint_block", "middle_block_out"))
    }
    net = comfy.controlnet.load_controlnet_state_dict(own | {"lora_controlnet": torch.zeros(())})
    assert isinstance(net, comfy.controlnet.ControlLora)
    return net


@pytest.mark.parametrize("kind", ["controlnet", "control-lora"])
def test_applied_alone_it_equals_cores_cross_attn_controlnet(host, twins, control, control_lora, x, picture, kind):
    import nodes

    net = control.net if kind == "controlnet" else control_lora
    host.check_net(net, 128)
    ours, _ = host.control_with_faces(
        prompt("a"), prompt("b"), net, picture, tokens("face"), tokens("empty"), 0.7, 0.0, 1.0
    )
    cores, _ = nodes.ControlNetApplyAdvanced().apply_controlnet(prompt("a"), prompt("b"), net, picture, 0.7, 0.0, 1.0)
    plain = predict(twins.model, x, SIGMA, cores)
    cores[0][1]["cross_attn_controlnet"] = TOKENS["face"]
    same(predict(twins.model, x, SIGMA, ours), predict(twins.model, x, SIGMA, cores))
    assert not predict(twins.model, x, SIGMA, ours).equal(plain)


def test_a_net_for_another_base_is_named(host, errors):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.attn2 = torch.nn.ModuleDict({"to_k": torch.nn.Linear(2048, 8)})

    net = SimpleNamespace(control_model=Net())
    host.check_net(net, 2048)
    with pytest.raises(errors.Mismatch, match=r"tokens have 768 features, and control_net reads 2048 \(SDXL\)"):
        host.check_net(net, 768)


def test_combined_prompts_keep_their_tokens(host, twins, control, x, picture):
    """Core's Conditioning (Combine) and Set Area work on what we hand out."""
    import nodes

    both = host.control_with_faces(
        prompt("a"), prompt("b"), control.net, picture, tokens("face"), tokens("empty"), 0.7, 0.0, 1.0
    )
    other = host.control_with_faces(
        prompt("b"), prompt("b"), control.net, picture, tokens("other"), tokens("empty"), 0.7, 0.0, 1.0
    )
    (combined,) = nodes.ConditioningCombine().combine(both[0], other[0])
    a, b = (
        control.diffusers(twins, x, SIGMA, WORDS[name][0], TOKENS[own], picture, WORDS[name][1], 0.7)
        for name, own in (("a", "face"), ("b", "other"))
    )
    same(predict(twins.model, x, SIGMA, combined), (a + b) / 2)
    (left,) = nodes.ConditioningSetArea().append(both[0], SIZE[1] * 4, SIZE[0] * 8, 0, 0, 1.0)
    (parts,) = nodes.ConditioningCombine().combine(left, prompt("b"))
    assert torch.isfinite(predict(twins.model, x, SIGMA, parts)).all()


def test_a_link_is_cloned_for_another_gpu(host, control):
    """ComfyUI 0.33 asks every ControlNet for a clone on each GPU."""
    link = host.FaceControl(control.net.copy(), "key", torch.ones(1, 8, 8))
    link.set_cond_hint(torch.zeros(1, 3, 8, 8), 0.5, (0.1, 0.9))
    link.multigpu_clones, elsewhere, asked = {}, torch.device("cpu", 1), []

    def deepclone_multigpu(load_device, autoregister=False):
        asked.append(load_device)
        return control.net.copy()

    link.net.deepclone_multigpu = deepclone_multigpu
    clone = link.deepclone_multigpu(elsewhere, autoregister=True)
    assert asked == [elsewhere] and link.multigpu_clones == {elsewhere: clone}
    assert isinstance(clone, host.FaceControl) and clone.net is not link.net
    assert (clone.key, clone.mask, clone.strength) == ("key", link.mask, 0.5)
    other = link.deepclone_multigpu(torch.device("cpu"))
    assert other is not clone and link.multigpu_clones == {elsewhere: clone}
