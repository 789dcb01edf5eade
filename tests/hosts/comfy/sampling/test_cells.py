"""Residual cells in a ComfyUI MODEL of Flux.1's kind, beside everything else that may be patched into it."""

import copy
import importlib
from pathlib import Path

import flux
import pytest
import torch
from counting import ATTENTION, COPIES, SYNCS, operations, total
from published_flux import SMALL_FLUX, features, person, pulid_flux, state_of
from tensors import close
from twins import predict

from facecdm import bases
from facecdm.adapter.attention import LayerStream, attend
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.errors import Mismatch
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.times import sigma_at
from facecdm.hosts.comfy.step_weights import KEY

SIGMA, CELLS = 0.7, 4  # PuLID's cells in the small model
TEXT = 7  # text tokens of `flux.prompt`


def test_the_base_model_is_read_from_the_blocks(model, in_comfy):
    found = layer_map(model)
    assert [layer.part for layer in found.layers] == ["double"] * 3 + ["single"] * 5
    assert ({(layer.width, layer.heads) for layer in found.layers}, found.context) == ({(48, 2)}, 40)
    assert layer_map(flux.make_chroma()) == found, "Chroma's blocks have the same sizes"


def test_an_adapter_for_another_base_is_refused(model, adapters, sd15):
    with pytest.raises(Mismatch, match="made for .*DiT of 8 blocks.*the MODEL is U-Net|made for small Flux"):
        apply_person(sd15.model, person(adapters[0]))
    with pytest.raises(Mismatch, match="the MODEL is DiT of 9 blocks, text width 40"):
        apply_person(flux.make_flux(depth_single_blocks=6), person(adapters[0]))


@pytest.mark.parametrize("later", [False, True], ids=["before ours", "after ours"])
def test_another_packs_replacement_of_a_block_is_kept(model, pulid, later):
    """It may put its own there before or after Apply FaceCDM; it sees the base's block, and the cells come on top."""
    calls = []

    def other(args, extra):
        calls.append(sorted(args))
        return extra["original_block"](args)

    patched = model.clone() if not later else apply_person(model, person(pulid))
    patched.set_model_patch_replace(other, "dit", "double_block", 0)
    patched.set_model_patch_replace(other, "dit", "single_block", 4)
    patched = patched if later else apply_person(patched, person(pulid))
    x, prompt = flux.latents(), flux.prompt(model)
    ours = predict(patched, x, SIGMA, prompt)
    assert len(calls) == 2 and "txt" in calls[0] and "txt" not in calls[1]
    assert torch.equal(ours, predict(apply_person(model, person(pulid)), x, SIGMA, prompt))


def test_applying_leaves_the_given_model_alone(model, pulid):
    before = {key: value.clone() for key, value in model.model.diffusion_model.state_dict().items()}
    forwards = {name: module.forward for name, module in model.model.diffusion_model.named_modules()}
    x, prompt = flux.latents(), flux.prompt(model)
    plain = predict(model, x, SIGMA, prompt)
    patched = apply_person(model, person(pulid))
    assert not torch.equal(predict(patched, x, SIGMA, prompt), plain)
    assert torch.equal(predict(model, x, SIGMA, prompt), plain)
    assert all(torch.equal(value, before[key]) for key, value in model.model.diffusion_model.state_dict().items())
    modules = model.model.diffusion_model.named_modules()
    assert all(module.forward == forwards[name] for name, module in modules), "no method is replaced"
    assert "patches_replace" not in patched.model_options.get("transformer_options", {})


def test_comfyui_counts_and_loads_the_weights(model, adapters):
    """One copy of the weights however many people and clones; keys' weights are not needed while sampling."""
    patched = apply_person(apply_person(model, person(adapters[0], 1)), person(adapters[0], 2))
    (cells,) = patched.get_additional_models_with_key(KEY)
    width, inner = SMALL_FLUX.width, SMALL_FLUX.pulid
    assert cells.model_size() == CELLS * 4 * (2 * width * inner + 2 * width), "queries, output and norm"
    own = {value.data_ptr() for value in adapters[0].streams["face"].queries.parameters()}
    assert own == {value.data_ptr() for value in cells.model.parameters()}, "no second copy"
    both = apply_person(patched, Person(adapters[1], Features(torch.randn(1, 512))))
    assert len(both.clone().get_additional_models_with_key(KEY)) == 3, "WithAnyone has two streams"
    assert model.get_additional_models_with_key(KEY) == []


def test_adapters_that_share_a_stream_share_its_weights(model, adapters):
    """As after Combine FaceCDM Adapters: ComfyUI must load the modules that run, whichever adapter is applied last."""
    first = apply_person(model, person(adapters[0], 1))
    again = apply_person(model, person(copy.copy(adapters[0]), 2))
    ((one,), (other,)) = (patched.get_additional_models_with_key(KEY) for patched in (first, again))
    assert one.model is other.model is adapters[0].streams["face"].queries


def test_people_add_up_in_any_order(model, adapters):
    one, two = person(adapters[0], 1), Person(adapters[1], Features(torch.randn(1, 512)))
    x, prompt = flux.latents(), flux.prompt(model)
    first = predict(apply_person(apply_person(model, one), two), x, SIGMA, prompt)
    close(predict(apply_person(apply_person(model, two), one), x, SIGMA, prompt), first)


def test_the_cost_of_a_call(model, pulid, monkeypatch):
    """Two linear layers and an attention a cell, no copy of the hidden states, no host sync, nothing of the face."""
    import comfy.ldm.modules.attention as attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    prompt, negative = flux.prompt(model, 1), flux.prompt(model, 2)
    plain = operations(model, prompt, negative, channels=16)
    for people in (1, 2):
        patched = model
        for number in range(people):
            patched = apply_person(patched, person(pulid, number))
        counts = operations(patched, prompt, negative, channels=16)
        cells = people * CELLS
        assert counts["aten::linear"] - plain["aten::linear"] == 2 * cells
        assert total(counts, ATTENTION) - total(plain, ATTENTION) == cells
        assert counts["aten::addcmul_"] - plain["aten::addcmul_"] == cells
        assert total(counts, SYNCS) == total(plain, SYNCS)
        assert total(counts, COPIES) == total(plain, COPIES)


def test_the_benchmark_counts_what_cells_add_to_a_step(model, monkeypatch):
    """benchmarks/dit_speed.py: two linear layers a cell, no host sync, and no block of the base model."""
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[4] / "benchmarks")
    monkeypatch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map(model)))
    benchmark = importlib.import_module("dit_speed").benchmark
    sizes = {key: value for key, value in flux.SMALL.items() if not key.startswith("depth")}
    rows = benchmark(3, 5, 64, 1, 2, whole=False, base=sizes, adapters=SMALL_FLUX)
    plain, row = (next(row for row in rows if f"| {name} |" in row) for name in ("plain", "PuLID-FLUX"))
    assert [int(count) for count in row.split("|")[7:9]] == [2 * CELLS, 0] and "3 + 5 blocks" in plain
    own = [
        row for row in rows if row.startswith("| FaceCDM's own")
    ]  # two streams, each with a cell after every third block
    assert [[int(count) for count in row.split("|")[7:9]] for row in own] == [[2 * 2 * 3, 0]] * 2


def test_clones_allocate_nothing(model, pulid):
    patched = apply_person(model, person(pulid))
    patched.clone()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        clones = [patched.clone() for _ in range(20)]
    assert [event.key for event in profile.key_averages() if event.key.startswith("aten::")] == []
    assert len({id(clone.get_additional_models_with_key(KEY)[0].model) for clone in clones}) == 1


def test_start_and_end(model, pulid):
    x, prompt, sampling = flux.latents(), flux.prompt(model), model.get_model_object("model_sampling")
    start, end = sigma_at(sampling, 0.2), sigma_at(sampling, 0.6)
    timed = apply_person(model, person(pulid, sigma_start=start, sigma_end=end))
    for sigma, acts in ((start * 1.02, False), ((start + end) / 2, True), (end * 0.95, False)):
        assert torch.equal(predict(timed, x, sigma, prompt), predict(model, x, sigma, prompt)) is not acts


def test_strength(model, pulid):
    """A strength of 0 is a no-op to the bit."""
    x, prompt = flux.latents(), flux.prompt(model)
    off = apply_person(model, person(pulid, settings={"face": Stream(0.0)}))
    assert torch.equal(predict(off, x, SIGMA, prompt), predict(model, x, SIGMA, prompt))


def with_lora(model):
    """As core's LoRA loader: a patch of one weight of each kind of block."""
    generator = torch.Generator().manual_seed(4)
    for name in ("double_blocks.0.img_attn.proj", "single_blocks.1.linear2"):
        key = f"diffusion_model.{name}.weight"
        change = torch.randn(model.model.state_dict()[key].shape, generator=generator) / 10
        assert model.add_patches({key: ("diff", (change,))}) == [key]
    return model


@pytest.mark.parametrize("kind", ["schnell", "Fill", "LoRA"])
def test_other_inputs_and_weights_of_the_base(pulid, kind, in_comfy):
    """Against the cells' equations on each block's result, by hooks: schnell has no guidance, Fill more channels."""
    sizes = {"schnell": dict(guidance_embed=False), "Fill": dict(in_channels=96), "LoRA": {}}
    base = flux.make_flux(**sizes[kind])
    model, (x, prompt) = with_lora(base.clone()) if kind == "LoRA" else base, (flux.latents(), flux.prompt(base))
    ours, plain = predict(apply_person(model, person(pulid)), x, SIGMA, prompt), predict(model, x, SIGMA, prompt)
    if kind == "LoRA":
        assert not torch.equal(plain, predict(base, x, SIGMA, prompt))
    tokens, state = pulid.project(features(), None)["face"].flatten(0, 1)[None], state_of(pulid_flux(SMALL_FLUX, CELLS))

    def after(number: int):
        def add(block, args, out):
            picture = out[0] if isinstance(out, tuple) else out[:, TEXT:]
            added = picture + flux.cell(state, f"pulid_ca.{number}", tokens, picture, 2)
            return (added, out[1]) if isinstance(out, tuple) else torch.cat([out[:, :TEXT], added], 1)

        return add

    dit = base.model.diffusion_model
    blocks = [*dit.double_blocks, *dit.single_blocks]
    hooks = [blocks[at].register_forward_hook(after(number)) for number, at in enumerate(pulid.streams["face"].at)]
    close(ours, predict(model, x, SIGMA, prompt), 1e-4)
    assert len(hooks) == CELLS and (ours - plain).abs().max() > 0.01 * plain.abs().max()


def test_chroma(in_comfy, pulid):
    """Its blocks are replaced in the same way; its text has no pooled embedding."""
    chroma = flux.make_chroma()
    x, prompt = flux.latents(), flux.prompt(chroma)
    plain = predict(chroma, x, SIGMA, prompt)
    shown = predict(apply_person(chroma, person(pulid)), x, SIGMA, prompt)
    assert torch.isfinite(shown).all() and (shown - plain).abs().max() > 0.01 * plain.abs().max()


def test_a_controlnets_residuals_are_added_too(model, pulid):
    """After the cells, as ComfyUI adds them after a block."""
    control = {"input": [torch.randn(1, 24, 48) * 0.1, None], "output": [torch.randn(1, 24, 48) * 0.1]}

    def with_control(executor, x, t, c_concat=None, c_crossattn=None, _=None, *args, **kwargs):
        return executor(x, t, c_concat, c_crossattn, control, *args, **kwargs)

    import comfy.patcher_extension

    def controlled(one):
        one = one.clone()
        one.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "control", with_control)
        return one

    stream, tokens = pulid.streams["face"], pulid.project(features(), None)["face"]
    added = {0: control["input"][0], 3: control["output"][0]}

    def residual(index, x):
        if index not in stream.at:
            return added.get(index)
        number = stream.at.index(index)
        keys, queries = stream.keys[number], stream.queries[number]
        k, v = keys(tokens)
        shown = LayerStream(0, len(x), k, v, torch.ones(1))
        return queries(x, shown, attend)[0] + added.get(index, 0)

    x, prompt = flux.latents(), flux.prompt(model)
    ours = predict(controlled(apply_person(model, person(pulid))), x, SIGMA, prompt)
    close(ours, flux.reference(model, x, SIGMA, prompt, residual))


def test_a_pack_with_an_older_forward_pass_of_its_own(model, pulid):
    """ComfyUI-TeaCache's and others' call the blocks' replacements without the transformer_options."""
    import comfy.patcher_extension

    def older(replacement):
        def call(args, extra):
            options = args.pop("transformer_options")
            block = extra["original_block"]
            return replacement(args, {"original_block": lambda now: block({**now, "transformer_options": options})})

        return call

    def forward(executor, *args, **kwargs):
        (options,) = (one for one in (*args, kwargs.get("transformer_options")) if isinstance(one, dict))
        blocks = options["patches_replace"]["dit"]
        blocks.update({key: older(replacement) for key, replacement in blocks.items()})
        return executor(*args, **kwargs)

    patched = apply_person(model, person(pulid))
    x, prompt = flux.latents(), flux.prompt(model)
    wanted = predict(patched, x, SIGMA, prompt)
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "older", forward)
    assert torch.equal(predict(patched, x, SIGMA, prompt), wanted)


def test_a_pack_that_skips_the_transformer_skips_the_cells(model, pulid):
    """Caches of the TeaCache kind wrap the diffusion model: a call that they answer themselves runs no cell."""
    import comfy.patcher_extension

    kept = []

    def cached(executor, *args, **kwargs):
        kept.append(kept[0] if kept else executor(*args, **kwargs))
        return kept[-1]

    patched = apply_person(model, person(pulid)).clone()
    patched.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL, "cache", cached)
    x, prompt = flux.latents(), flux.prompt(model)
    ours = predict(patched, x, SIGMA, prompt, times=3)
    assert len(kept) == 3 and all(one is kept[0] for one in kept)
    assert torch.equal(ours, predict(apply_person(model, person(pulid)), x, SIGMA, prompt))
