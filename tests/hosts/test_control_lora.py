"""A LoRA of the pose ControlNet: trained on both hosts, and applied to a CONTROL_NET."""

import pytest
import torch
from diffusers import ControlNetModel
from lab import STAGE, TinySource, everything, tiny_denoiser, tiny_trainer
from twins import SMALL_SDXL, make_twins

from facecdm.errors import BadFile, FaceCDMError, Mismatch
from facecdm.training.checks import Inputs, check_stage
from facecdm.training.lora import Lora

ROWS, SIZE = 2, (8, 8)


class Posed(TinySource):
    """With pose pictures."""

    has_pose = True

    def load(self, indices):
        rows = super().load(indices)
        rng = torch.Generator().manual_seed(indices[0])
        shape = (len(indices), 3, *(8 * side for side in rows.latents.shape[-2:]))
        object.__setattr__(rows, "control", torch.rand(shape, generator=rng))
        return rows


def net() -> ControlNetModel:
    torch.manual_seed(4)
    model = ControlNetModel.from_unet(tiny_denoiser().network).requires_grad_(False).eval()
    for value in model.parameters():
        if not value.any():  # the zero convolutions, as training would have left them
            value.copy_(torch.randn(value.shape) * 0.1)
    return model


def trainer(folder, control, **stage):
    return tiny_trainer(
        folder,
        STAGE.with_settings(**{"drop_pose": 0.0, "steps": 2, "lora_rank": 2, **stage}),
        control=control,
        data=Posed(),
    )


@pytest.mark.parametrize("layers,count", [("attention", 24), ("all", 50)])
def test_it_is_trained_and_the_controlnet_is_not(tmp_path, layers, count):
    control = net()
    before = {name: value.clone() for name, value in control.state_dict().items()}
    made = trainer(tmp_path, control, train=["gates", "control"], lora_layers=layers)
    assert len(made.learner.control.parts) == count and not made.learner.lora.parts
    start = everything(made)
    result = made.run()
    changed = {name for name, value in everything(made).items() if not torch.equal(value, start[name])}
    ups = {f"parameters.control.{name}.up" for name in result.control.parts}
    assert ups <= changed and not result.lora.parts
    assert all(torch.equal(value, before[name]) for name, value in control.state_dict().items())
    assert all(not value.requires_grad for value in control.parameters())

    def predict() -> torch.Tensor:
        torch.manual_seed(9)
        rows = Posed().load([0, 1])
        return made.denoiser.predict(rows.latents, torch.tensor([5, 900]), rows.prompt, control=rows.control)

    alone = predict()
    with result.control.on(made.denoiser.control_layers()):
        assert (predict() - alone).abs().max() > 1e-5
    assert torch.equal(predict(), alone)


def test_the_next_stage_trains_it_further_or_leaves_it(tmp_path):
    first = trainer(tmp_path, net(), train=["control"]).run()
    for group, moves in (("control", True), ("gates", False)):
        made = tiny_trainer(
            tmp_path / group,
            STAGE.with_settings(name="identity", steps=1, drop_pose=0.0, train=[group], warmup=0),
            control=net(),
            control_lora=first.control,
            data=Posed(),
        )
        after = made.run().control
        assert after.parts.keys() == first.control.parts.keys()
        assert moves != all(torch.equal(part.up, first.control.parts[name].up) for name, part in after.parts.items())


@pytest.mark.parametrize("control, data", [(None, Posed()), (net(), TinySource())])
def test_without_a_controlnet_or_poses_it_is_refused(tmp_path, control, data):
    inputs = Inputs(tiny_denoiser(control=control), data, tmp_path)
    with pytest.raises(FaceCDMError, match="trains the LoRA of a ControlNet.*has no pose pictures"):
        check_stage(STAGE.with_settings(train=["control"]), inputs)


@pytest.fixture(scope="module")
def pair(in_comfy):
    """(core's MODEL and CONTROL_NET, diffusers' twin of both)"""
    from control_twins import make_control_twins

    return make_twins(SMALL_SDXL), make_control_twins(SMALL_SDXL)


def random_lora(layers, seed: int = 0) -> Lora:
    torch.manual_seed(seed)
    lora = Lora.new(layers, 2)
    for part in lora.parts.values():
        part.up.data.normal_(0, 0.1)
    return lora


def outputs(denoiser, twins):
    from facecdm.training.rows import Prompt

    torch.manual_seed(2)
    noisy, states, pooled = torch.randn(ROWS, 4, *SIZE), torch.randn(ROWS, 77, twins.context), torch.randn(ROWS, 1280)
    sizes = torch.tensor([[64.0, 64, 0, 0, 64, 64]]).expand(ROWS, -1)
    return denoiser.predict(
        noisy,
        torch.tensor([30, 700]),
        Prompt(states, pooled, sizes),
        control=torch.rand(ROWS, 3, *(8 * side for side in SIZE)),
    )


def test_both_hosts_give_the_same_gradients_and_names_and_the_node_applies_it(pair):
    from facecdm.hosts.comfy.control.lora import control_with_lora
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser
    from facecdm.hosts.diffusers.denoiser import DiffusersDenoiser

    twins, control = pair
    found = {}
    with ComfyDenoiser(twins.model, control=control.net) as comfy:
        theirs = DiffusersDenoiser(twins.unet, torch.nn.Identity(), comfy.signal, comfy.noise, "epsilon", control.model)
        assert set(comfy.control_layers()) == set(theirs.control_layers())
        for name, host in (("comfy", comfy), ("diffusers", theirs)):
            lora = random_lora(comfy.control_layers())
            for part in lora.parts.values():
                part.requires_grad_(True)
            host.learn_control(True)
            with lora.on(host.control_layers()):
                out = outputs(host, twins)
            out.square().mean().backward()
            host.learn_control(False)
            gradients = {
                f"{layer}.{key}": value.grad
                for layer, part in lora.parts.items()
                for key, value in part.named_parameters()
            }
            found[name] = out.detach(), gradients
        plain = outputs(comfy, twins).detach()
    (ours, learnt), (others, wanted) = found["comfy"], found["diffusers"]
    torch.testing.assert_close(ours, others, rtol=0, atol=1e-4 * others.abs().max().item())
    assert sum(value.abs().max() > 1e-9 for value in wanted.values()) > 0.9 * len(wanted)
    for name, value in wanted.items():
        torch.testing.assert_close(learnt[name], value, rtol=0, atol=1e-3 * max(value.abs().max().item(), 1e-6))

    lora = random_lora(comfy.control_layers())
    applied = control_with_lora(control.net, lora.tensors(), 1.0)
    with ComfyDenoiser(twins.model, control=applied) as denoiser:
        torch.testing.assert_close(outputs(denoiser, twins).detach(), ours, rtol=0, atol=1e-4 * ours.abs().max().item())
    with ComfyDenoiser(twins.model, control=control.net) as denoiser:
        assert torch.equal(outputs(denoiser, twins).detach(), plain), "the given ControlNet stays as it is"
    assert (ours - plain).abs().max() > 1e-3 * plain.abs().max()
    half = control_with_lora(control_with_lora(control.net, lora.tensors(), 0.5), lora.tensors(), 0.5)
    with ComfyDenoiser(twins.model, control=half) as denoiser:
        torch.testing.assert_close(outputs(denoiser, twins).detach(), ours, rtol=0, atol=1e-4 * ours.abs().max().item())


def test_a_controlnet_has_no_gradients_until_it_learns(pair):
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser

    twins, control = pair
    with ComfyDenoiser(twins.model, control=control.net) as denoiser:
        lora = random_lora(denoiser.control_layers())
        for part in lora.parts.values():
            part.requires_grad_(True)
        with lora.on(denoiser.control_layers()):
            assert not outputs(denoiser, twins).requires_grad
            denoiser.learn_control(True)
            assert outputs(denoiser, twins).requires_grad


@pytest.mark.parametrize("damage", [{"a.down": None}, {"a.up": torch.zeros(())}])
def test_an_incomplete_control_lora_is_refused(in_comfy, damage):
    from comfy.controlnet import ControlLora

    from facecdm.hosts.comfy.control.lora import control_with_lora

    lora = random_lora({"control_model.a": torch.nn.Linear(6, 4)}).tensors()
    weights = {"a.up": torch.randn(4, 2), "a.down": torch.randn(2, 6)}
    joined = control_with_lora(ControlLora(weights), lora, 1.0).control_weights
    assert joined["a.up"].shape == (4, 4) and joined["a.down"].shape == (4, 6)
    weights = {name: value for name, value in (weights | damage).items() if value is not None}
    with pytest.raises(BadFile, match="control_net's a is incomplete"):
        control_with_lora(ControlLora(weights), lora, 1.0)


def test_a_control_lora_accepts_one(in_comfy):
    """The demo's own pose ControlNet, which core builds from the MODEL: as the shell's training has it."""
    from facecdm.demo.paths import POSE_CONTROLNET
    from facecdm.demo.weights import read, read_sizes
    from facecdm.hosts.comfy.control.lora import control_with_lora
    from facecdm.hosts.comfy.demo import pose
    from facecdm.hosts.comfy.demo.model import build_model
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser
    from facecdm.hosts.diffusers.denoiser import demo_denoiser
    from facecdm.training.rows import Prompt

    with torch.inference_mode():
        model = build_model(read())
    torch.manual_seed(1)
    t = torch.tensor([600])
    side = 8 * read_sizes().downscale
    noisy, states, picture = torch.randn(1, 48, 8, 8), torch.randn(1, 77, 192), torch.rand(1, 3, side, side)

    def predict(denoiser):
        # ComfyUI's latents may be larger, with fewer channels.
        own = read_sizes().shuffle if isinstance(denoiser, ComfyDenoiser) else 1
        latents = torch.pixel_shuffle(noisy, own)
        return torch.pixel_unshuffle(denoiser.predict(latents, t, Prompt(states), control=picture), own)

    shell = demo_denoiser(pose=POSE_CONTROLNET)
    lora = random_lora(shell.control_layers())
    core = pose.load(POSE_CONTROLNET)
    with lora.on(shell.control_layers()), torch.no_grad():
        wanted = predict(shell)
    with torch.no_grad():
        alone = predict(shell)
    assert (wanted - alone).abs().max() > 1e-2 * alone.abs().max()
    with ComfyDenoiser(model, control=core) as denoiser:
        assert set(denoiser.control_layers()) == set(shell.control_layers())
        torch.testing.assert_close(predict(denoiser).detach(), alone, rtol=0, atol=2e-3 * alone.abs().max().item())
        for part in lora.parts.values():
            part.requires_grad_(True)
        denoiser.learn_control(True)
        with lora.on(denoiser.control_layers()):
            out = predict(denoiser)
        out.square().mean().backward()
        torch.testing.assert_close(out.detach(), wanted, rtol=0, atol=2e-3 * wanted.abs().max().item())
        assert all(part.up.grad.abs().max() > 0 for part in lora.parts.values())
    with ComfyDenoiser(model, control=control_with_lora(core, lora.tensors(), 1.0)) as denoiser:
        torch.testing.assert_close(predict(denoiser).detach(), wanted, rtol=0, atol=5e-3 * wanted.abs().max().item())


def test_a_lora_of_something_else_is_refused(pair):
    from facecdm.hosts.comfy.control.lora import control_with_lora
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser

    twins, control = pair
    with ComfyDenoiser(twins.model, control=control.net) as denoiser:
        of_the_unet = random_lora(dict(list(denoiser.layers().items())[:2])).tensors()
        name, layer = next((n, m) for n, m in denoiser.control_layers().items() if n.endswith("attn2.to_q"))
    with pytest.raises(Mismatch, match="not a ControlNet's"):
        control_with_lora(control.net, of_the_unet, 1.0)
    with pytest.raises(Mismatch, match="not a ControlNet's"):
        control_with_lora(control.net, {}, 1.0)
    narrow = random_lora({name: torch.nn.Linear(layer.in_features // 2, layer.out_features)}).tensors()
    with pytest.raises(Mismatch, match="made for another ControlNet.*attn2.to_q is of .* has .* there"):
        control_with_lora(control.net, narrow, 1.0)
