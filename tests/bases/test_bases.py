"""What each entry says of its base model, held against diffusers, ComfyUI and the published files."""

import pytest
import torch

from facecdm.bases import BASES, base_for_text, base_of, name_of
from facecdm.bases.grid import layer_grid, token_grid
from facecdm.bases.layers import Layer, LayerMap
from facecdm.bases.noise import Discrete, Flow
from facecdm.errors import Mismatch


@pytest.mark.parametrize("name", BASES)
def test_an_entry_is_found_by_its_layers_and_its_text_width(name):
    base = BASES[name]
    assert base.name == name and base_of(base.layer_map) is base and name_of(base.layer_map) == name
    assert base_for_text(base.text_width).text_width == base.text_width
    assert LayerMap.from_json(base.layer_map.to_json()) == base.layer_map


def test_an_unknown_base_is_described_and_treated_as_the_nearest_kind():
    unknown = LayerMap.of_runs(4096, ("input", 640, 10, 4))
    assert base_of(unknown) is None
    assert name_of(unknown) == "U-Net of 4 cross-attention layers, text width 4096"
    assert base_for_text(5000).name == "SD1.5" and base_for_text(5000, pooled=True).name == "SDXL"
    dit = LayerMap.of_runs(15360, ("double", 6144, 48, 8), ("single", 6144, 48, 48))
    assert name_of(dit) == "DiT of 56 blocks, text width 15360"


def test_sizes_are_those_of_the_published_bases():
    """weight-formats.md: layers, heads, Σ hidden."""
    sizes = [(len(m.layers), m.heads, m.width) for m in (BASES[name].layer_map for name in ("SD1.5", "SDXL"))]
    assert sizes == [(16, 128, 12_480), (70, 1_300, 83_200)]
    flux = BASES["Flux.1"].layer_map
    assert (len(flux.layers), {(layer.width, layer.heads) for layer in flux.layers}) == (57, {(3072, 24)})
    assert [BASES[name].text_width for name in ("SD1.5", "SD2", "SDXL", "FaceCDM demo")] == [768, 1024, 2048, 192]
    heads = [{layer.width // layer.heads for layer in BASES[name].layer_map.layers} for name in ("SD2", "SDXL")]
    assert heads == [{64}, {64}] and {layer.heads for layer in BASES["SD1.5"].layer_map.layers} == {8}
    widths = [layer.width for layer in BASES["SD2"].layer_map.layers]
    assert widths == [layer.width for layer in BASES["SD1.5"].layer_map.layers]
    demo = BASES["FaceCDM demo"].layer_map
    assert (len(demo.layers), demo.heads, demo.width) == (7, 16, 1024)
    sd35 = [BASES[name].layer_map for name in ("SD3.5 Large", "SD3.5 Medium")]
    assert [(len(m.layers), m.layers[0].width, m.layers[0].heads) for m in sd35] == [(38, 2432, 38), (24, 1536, 24)]
    qwen, z = BASES["Qwen-Image"].layer_map, BASES["Z-Image"].layer_map
    assert (len(qwen.layers), set(qwen.layers), qwen.context) == (60, {Layer("double", 3072, 24)}, 3584)
    assert (len(z.layers), set(z.layers), z.context) == (30, {Layer("single", 3840, 30)}, 2560)
    qwen, z = BASES["Qwen-Image"].layer_map, BASES["Z-Image"].layer_map
    assert (len(qwen.layers), set(qwen.layers), qwen.context) == (60, {Layer("double", 3072, 24)}, 3584)
    assert (len(z.layers), set(z.layers), z.context) == (30, {Layer("single", 3840, 30)}, 2560)
    others = [base for name, base in BASES.items() if name != "FaceCDM demo"]  # tests/demo/test_picture_size.py
    assert [base.step for base in others] == [64, 64, 64, 16, 16, 16, 32, 16]
    assert [base.resolution for base in others] == [512, 768, 1024, 1024, 1024, 1024, 1328, 1024]
    assert [base.face_crop for base in BASES.values()][:3] == [224, 256, 256]


@pytest.mark.parametrize(
    "run",
    [
        ("side", 64, 2, 1),
        ("input", 64, 0, 1),
        ("input", 64, -2, 1),
        ("input", 1001, 1001, 1),
        ("input", 65, 2, 1),
        ("input", 64, 2, 0),
        ("input", 64, 2, 1001),
    ],
)
def test_impossible_layers_are_refused(run):
    with pytest.raises(ValueError, match="it declares"):
        LayerMap.from_json({"context": 32, "layers": [("output", 64, 2, 1), run]})


@pytest.mark.parametrize("runs", [[], [("output", 64, 2, 1), ("double", 64, 2, 1)]], ids=["none", "of both kinds"])
def test_layers_are_of_a_u_net_or_of_a_dit(runs):
    with pytest.raises(ValueError, match="it declares no layers, or layers of a U-Net and of a DiT"):
        LayerMap.from_json({"context": 32, "layers": runs})


def test_the_most_layers_and_heads_are_read():
    runs = [("input", 1000, 1000, 600), ("output", 64, 1, 400)]
    assert len(LayerMap.from_json({"context": 32, "layers": runs}).layers) == 1000


def test_layers_by_depth_are_input_middle_output():
    layer_map = BASES["SD1.5"].layer_map
    parts = [layer_map.layers[i].part for i in layer_map.by_depth]
    assert parts == ["input"] * 6 + ["middle"] + ["output"] * 9
    assert BASES["Flux.1"].layer_map.by_depth == list(range(57)), "double blocks, then single ones"


@pytest.mark.parametrize("base", [base for base in BASES.values() if base.blocks], ids=lambda base: base.name)
def test_blocks_cover_every_layer_and_presets_name_existing_blocks(base):
    numbers = [number for number, _ in base.blocks]
    assert sum(count for _, count in base.blocks) == len(base.layer_map.layers)
    assert sorted(numbers) == list(range(len(base.blocks)))
    assert all(set(factors) <= set(numbers) for factors in base.presets.values())


@pytest.mark.parametrize("zero_terminal_snr", [False, True])
def test_the_noise_process_is_that_of_diffusers(zero_terminal_snr):
    from diffusers import DDPMScheduler

    scheduler = DDPMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, rescale_betas_zero_snr=zero_terminal_snr
    )
    noise = Discrete.scaled_linear(zero_terminal_snr)
    torch.testing.assert_close(noise.alpha, scheduler.alphas_cumprod.sqrt(), rtol=1e-4, atol=3e-4)
    torch.testing.assert_close(noise.alpha**2 + noise.sigma**2, torch.ones(1000))


@pytest.mark.parametrize(
    "positions,size,grid",
    [
        (64, (8, 8), (8, 8)),
        (16, (8, 8), (4, 4)),
        (12, (13, 10), (4, 3)),
        (1, (2, 1), (1, 1)),
        (1, (1, 2), (1, 1)),
        (2, (4, 2), (2, 1)),
    ],
)
def test_a_layers_grid_is_the_latents_halved_until_it_fits(positions, size, grid):
    assert layer_grid(positions, *size) == grid


@pytest.mark.parametrize("positions", [0, 60, 131])
def test_a_number_of_positions_that_no_level_has_is_refused(positions):
    with pytest.raises(Mismatch, match=f"a layer of {positions} positions"):
        layer_grid(positions, 13, 10)


def test_a_dits_tokens_cover_latents_that_it_pads():
    assert token_grid(128, 96, 2) == (64, 48) and token_grid(7, 10, 2) == (4, 5)


@pytest.mark.parametrize("tokens", [256, 1024, 4096])
def test_flow_times_are_shifted_as_in_diffusers(tokens):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift

    flow, uniform = Flow(), torch.linspace(1, 0.1, 10)
    assert flow.shift(tokens) == pytest.approx(calculate_shift(tokens))
    scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    scheduler.set_timesteps(sigmas=uniform.tolist(), mu=flow.shift(tokens))
    torch.testing.assert_close(flow.time(uniform, flow.shift(tokens)), scheduler.sigmas[:-1])


def test_flow_gives_the_clean_latents_back():
    flow, (clean, noise), t = Flow(), torch.randn(2, 3, 4), torch.tensor([[0.1], [0.5], [1.0]])
    noisy = flow.noisy(clean, noise, t)
    torch.testing.assert_close(flow.clean(noisy, flow.target(clean, noise), t), clean)
    torch.testing.assert_close(noisy[2], noise[2])


@pytest.mark.parametrize(
    "name, kind", [("Qwen-Image", "QwenImageTransformer2DModel"), ("Z-Image", "ZImageTransformer2DModel")]
)
def test_layers_are_those_of_diffusers_own_sizes(name, kind):
    import diffusers

    from facecdm.hosts.diffusers.dit import layer_map

    with torch.device("meta"):
        assert layer_map(getattr(diffusers, kind)()) == BASES[name].layer_map
