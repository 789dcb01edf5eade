"""Low-rank additions: what they add, and that core's loader adds the same."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from facecdm.errors import BadFile
from facecdm.training.lora import Lora, LowRank
from facecdm.training.rows import Prompt


def randomised(part: LowRank) -> LowRank:
    nn.init.normal_(part.up, 0, 0.1)
    return part


@pytest.mark.parametrize(
    "layer,shape",
    [
        (nn.Linear(5, 7), (2, 3, 5)),
        (nn.Conv2d(5, 7, 1), (2, 5, 6, 6)),
        (nn.Conv2d(5, 7, 3, padding=1), (2, 5, 6, 6)),
        (nn.Conv2d(5, 7, 3, stride=2, padding=1), (2, 5, 6, 6)),
    ],
    ids=["linear", "1x1", "3x3", "down"],
)
def test_it_is_a_change_of_the_weight(layer, shape):
    torch.manual_seed(0)
    part, x = randomised(LowRank.of(layer, 2)), torch.randn(shape)
    with Lora({"layer": part}).on({"layer": layer}):
        added = layer(x)
    with torch.no_grad():
        base = layer.weight.clone()
        layer.weight += part.weight
        expected = layer(x)
        layer.weight.copy_(base)
    torch.testing.assert_close(added, expected)
    assert not torch.allclose(added, layer(x), atol=1e-3)


def test_alpha_over_rank_scales_it():
    torch.manual_seed(0)
    part, x = randomised(LowRank(5, 7, rank=4, alpha=2.0)), torch.randn(3, 5)
    torch.testing.assert_close(part.weight, part.up @ part.down / 2)
    torch.testing.assert_close(part(x), x @ (part.up @ part.down / 2).T)
    again = Lora.from_tensors(Lora({"layer": part}).tensors()).parts["layer"]
    assert again.alpha == 2.0 and torch.equal(again.weight, part.weight) and part.copy().alpha == 2.0


def test_a_convolution_travels_through_its_tensors():
    layers = {"lora_unet_conv": nn.Conv2d(4, 6, 3, padding=1), "lora_unet_linear": nn.Linear(4, 6)}
    lora = Lora.new(layers, 3)
    for part in lora.parts.values():
        randomised(part)
    again = Lora.from_tensors(lora.tensors())
    assert lora.tensors()["lora_unet_conv.lora_up.weight"].shape == (6, 3, 1, 1)
    for name, value in lora.tensors().items():
        assert torch.equal(again.tensors()[name], value)


def test_no_rank_is_larger_than_the_layer():
    assert LowRank.of(nn.Conv2d(3, 64, 3), 32).down.shape == (3, 3, 3, 3)


def test_core_loads_what_the_shell_trains(in_comfy):
    """Every layer of the demo's U-Net, by the names that the shell writes."""
    import comfy.sd

    from facecdm.demo.weights import read_sizes
    from facecdm.hosts.comfy.demo.model import load
    from facecdm.hosts.comfy.training.denoiser import ComfyDenoiser
    from facecdm.hosts.diffusers.denoiser import demo_denoiser

    torch.manual_seed(0)
    ours = demo_denoiser()
    lora = Lora.new(ours.layers(), 4)
    assert any(part.down.dim() == 4 for part in lora.parts.values()) and lora.parts.keys() > ours.linears().keys()
    for part in lora.parts.values():
        nn.init.normal_(part.up, 0, 0.02)
    noisy, t, prompt = torch.randn(1, 48, 16, 16), torch.tensor([500]), Prompt(torch.randn(1, 7, 192))
    with torch.no_grad():
        plain = ours.predict(noisy, t, prompt)
        with lora.on(ours.layers()):
            expected = ours.predict(noisy, t, prompt)
    model = comfy.sd.load_lora_for_models(load().model, None, lora.tensors(), 1.0, 0)[0]
    assert len(model.patches) == len(lora.parts)
    shuffle = read_sizes().shuffle  # ComfyUI's latents are larger, with fewer channels
    with ComfyDenoiser(model) as theirs, torch.no_grad():
        got = F.pixel_unshuffle(theirs.predict(F.pixel_shuffle(noisy, shuffle), t, prompt), shuffle)
    assert (expected - plain).abs().max() > 0.05
    torch.testing.assert_close(got, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda t: t.pop("layer.lora_up.weight"), "layer has one half only"),
        (lambda t: t.pop("layer.lora_down.weight"), "layer has one half only"),
        (lambda t: t.update({"layer.lora_up.weight": torch.ones(7, 3)}), r"halves of shapes \[4, 5\] and \[7, 3\]"),
        (lambda t: t.update({"layer.lora_up.weight": torch.ones(7)}), "halves of shapes"),
        (lambda t: t["layer.lora_up.weight"][0].fill_(float("nan")), "layer.lora_up holds NaN"),
        (lambda t: t["layer.alpha"].fill_(float("inf")), "layer.alpha holds NaN or infinity"),
        (lambda t: t.update({"layer.lora_up.weight": torch.ones(7, 4).to(torch.float8_e5m2)}), ""),
    ],
)
def test_damaged_files(change, message):
    tensors = {key: value.clone() for key, value in Lora({"layer": LowRank(5, 7, rank=4)}).tensors().items()}
    change(tensors)
    if not message:  # fp8 is no damage
        assert Lora.from_tensors(tensors).parts["layer"].up.dtype == torch.float32
        return
    with pytest.raises(BadFile, match=message):
        Lora.from_tensors(tensors)


@pytest.mark.parametrize(
    "name,message",
    [
        ("unet.down_blocks.0.attentions.0.to_q.lora_A.weight", "a name of diffusers or PEFT"),
        ("base_model.model.down_blocks.0.to_q.lora_B.default.weight", "a name of diffusers or PEFT"),
        ("unet.down_blocks.0.attn1.processor.to_q_lora.down.weight", "a name of diffusers or PEFT"),
        ("unet.down_blocks.0.attn1.to_q.lora.up.weight", "a name of diffusers or PEFT"),
        ("lora_unet_a.hada_w1_a", "LoHa, LoKr, DoRA"),
        ("lora_unet_a.dora_scale", "LoHa, LoKr, DoRA"),
        ("lora_unet_a.lora_mid.weight", "LoHa, LoKr, DoRA"),
        ("lora_unet_a.diff_b", "LoHa, LoKr, DoRA"),
        (".alpha", "LoHa, LoKr, DoRA"),
    ],
)
@pytest.mark.parametrize("beside", [True, False], ids=["beside a LoRA", "alone"])
def test_other_forms_are_named(name, message, beside):
    """None of their tensors is left out without a message."""
    tensors = Lora({"layer": LowRank(5, 7, rank=4)}).tensors() if beside else {}
    with pytest.raises(BadFile, match=f"a.bin: {name} is .*{message}.* FaceCDM's training wrote"):
        Lora.from_tensors(tensors | {name: torch.ones(4, 5)}, "a.bin")


def test_a_layer_without_alpha_has_that_of_its_rank():
    tensors = {key: value for key, value in Lora({"layer": LowRank(5, 7, rank=4)}).tensors().items() if "lora" in key}
    assert Lora.from_tensors(tensors).parts["layer"].alpha == 4.0 and len(tensors) == 2
