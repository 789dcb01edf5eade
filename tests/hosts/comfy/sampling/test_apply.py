"""How people live in a ComfyUI MODEL beside everything else that may be patched into it."""

import copy

import pytest
import torch
from twins import SMALL_SD15, conditioning, make_twins, new_adapter, predict, stir

from facecdm.adapter.person import Person, Stream
from facecdm.errors import Mismatch, UnsupportedModel
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.times import schedule, sigma_at
from facecdm.hosts.comfy.unet import layer_map

SIGMA = 2.0


def person(adapter, seed: int = 0, **more) -> Person:
    generator = torch.Generator().manual_seed(seed)
    face = torch.nn.functional.normalize(torch.randn(1, 512, generator=generator), dim=1)
    return Person(adapter, face, torch.randn(1, 7, adapter.config.image_width, generator=generator), **more)


def latents(batch: int = 1, size=(8, 8)):
    return torch.randn(batch, 4, *size, generator=torch.Generator().manual_seed(9)) * SIGMA


def prompt(context: int, seed: int = 1, tokens: int = 77, **more):
    return conditioning(torch.randn(1, tokens, context, generator=torch.Generator().manual_seed(seed)), **more)


def test_cfg_mixes_a_person_with_the_plain_negative(sd15, adapter):
    """ε of CFG 4 is made of ε with the person for the positive prompt and of the base's for the negative."""
    model, x = apply_person(sd15.model, person(adapter)), latents()
    positive, negative = prompt(96, 1), prompt(96, 2)
    with_person, plain = predict(model, x, SIGMA, positive), predict(sd15.model, x, SIGMA, negative)
    mixed = predict(model, x, SIGMA, positive, negative, cfg=4.0)
    torch.testing.assert_close(mixed, plain + 4 * (with_person - plain), rtol=0, atol=1e-4)


def test_a_batch_is_its_pictures_one_by_one(sd15, adapter):
    model, x = apply_person(sd15.model, person(adapter)), latents(3)
    together = predict(model, x, SIGMA, prompt(96), prompt(96, 2), cfg=3.0)
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1],
            predict(model, x[i : i + 1], SIGMA, prompt(96), prompt(96, 2), cfg=3.0),
            rtol=0,
            atol=1e-4,
        )


def test_several_conditionings_of_different_length(sd15, adapter):
    """Two positive prompts are averaged; the person's tokens are computed for each (the interplay reads its text)."""
    model, x = apply_person(sd15.model, person(adapter)), latents()
    one, two = prompt(96, 1), prompt(96, 2, tokens=154)
    both = predict(model, x, SIGMA, one + two, prompt(96, 3), cfg=1.0)
    separate = (predict(model, x, SIGMA, one) + predict(model, x, SIGMA, two)) / 2
    torch.testing.assert_close(both, separate, rtol=0, atol=1e-4)


def test_start_and_end(sd15, adapter):
    model, x = sd15.model, latents()
    sampling = model.get_model_object("model_sampling")
    start, end = sigma_at(sampling, 0.2), sigma_at(sampling, 0.6)
    assert start > end > 0
    timed = apply_person(model, person(adapter, sigma_start=start, sigma_end=end))
    for sigma, acts in ((start * 1.05, False), ((start + end) / 2, True), (end * 0.95, False)):
        plain = predict(model, x, sigma, prompt(96))
        assert torch.equal(predict(timed, x, sigma, prompt(96)), plain) is not acts


@pytest.mark.parametrize("values", [(1.0,), (1.0, 1.0)])
def test_factors_of_one_need_no_schedule(sd15, values):
    assert schedule(sd15.model.get_model_object("model_sampling"), values) is None


@pytest.mark.parametrize("values", [(2.0,), (2.0, 2.0), (0.0,)])
def test_a_constant_factor_applies_at_every_noise_level(sd15, values):
    found = schedule(sd15.model.get_model_object("model_sampling"), values)
    assert [found.at(torch.tensor([sigma])).item() for sigma in (14.0, 1.0, 0.1)] == [values[0]] * 3


def test_a_mask_keeps_a_person_out_of_the_rest(sd15, adapter):
    everywhere = apply_person(sd15.model, person(adapter, mask=torch.ones(64, 64)))
    nowhere = apply_person(sd15.model, person(adapter, mask=torch.zeros(64, 64)))
    x = latents()
    torch.testing.assert_close(
        predict(everywhere, x, SIGMA, prompt(96)),
        predict(apply_person(sd15.model, person(adapter)), x, SIGMA, prompt(96)),
    )
    torch.testing.assert_close(predict(nowhere, x, SIGMA, prompt(96)), predict(sd15.model, x, SIGMA, prompt(96)))


def test_people_add_up_in_any_order(sd15, adapter):
    one, two, x = person(adapter, 1), person(adapter, 2), latents()
    torch.testing.assert_close(
        predict(apply_person(apply_person(sd15.model, one), two), x, SIGMA, prompt(96)),
        predict(apply_person(apply_person(sd15.model, two), one), x, SIGMA, prompt(96)),
        rtol=0,
        atol=1e-5,
    )


def test_applying_leaves_the_given_model_alone(sd15, adapter):
    first = apply_person(sd15.model, person(adapter, 1))
    x = latents()
    before = predict(first, x, SIGMA, prompt(96))
    apply_person(first, person(adapter, 2))
    assert torch.equal(predict(first, x, SIGMA, prompt(96)), before)
    assert "patches_replace" not in sd15.model.model_options.get("transformer_options", {})


def test_another_packs_patch_of_a_layer_is_kept(sd15, adapter):
    """Another pack's patch on one layer answers in the text's place, and the person comes on top."""
    calls = []

    def other(q, k, v, extra_options):
        calls.append(extra_options["block"])
        return torch.zeros_like(q)

    occupied = sd15.model.clone()
    occupied.set_model_attn2_replace(other, "middle", 0, 0)
    model, x = apply_person(occupied, person(adapter)), latents()
    patches = model.model_options["transformer_options"]["patches_replace"]["attn2"]
    assert patches[("middle", 0, 0)].previous is other
    theirs = predict(occupied, x, SIGMA, prompt(96))
    ours = predict(model, x, SIGMA, prompt(96))
    assert calls == [("middle", 0)] * 2
    assert not torch.equal(ours, theirs)
    assert not torch.equal(ours, predict(apply_person(sd15.model, person(adapter)), x, SIGMA, prompt(96)))


def test_other_packs_may_add_to_our_patch(sd15, adapter):
    """As IPAdapter_plus does: `patches[key].add(callback, **options)` on a clone, called within its σ range."""
    model, x = apply_person(sd15.model, person(adapter)), latents()
    clone = model.clone()
    weights = []

    def callback(out, q, k, v, extra_options, weight, **options):
        weights.append(weight)
        return torch.ones_like(out) * weight

    added = clone.model_options["transformer_options"]["patches_replace"]["attn2"][("middle", 0, 0)]
    added.add(callback, weight=0.5, sigma_start=5.0, sigma_end=1.0)
    before, after = predict(model, x, SIGMA, prompt(96)), predict(clone, x, SIGMA, prompt(96))
    assert weights == [0.5] and not torch.equal(before, after)
    assert torch.equal(predict(clone.clone(), x, SIGMA, prompt(96)), after), "a clone keeps what was added"
    predict(clone, x, 7.0, prompt(96))
    assert weights == [0.5] * 2, "outside its range the callback is not called"


@pytest.mark.parametrize("key", [("middle", 0), ("middle", 0, 0)])
def test_additions_to_a_clone_stay_in_it(sd15, adapter, clones, key):
    """One clone a run of the graph, from one cached MODEL: each has its own callback and no other."""
    model, x, calls = apply_person(sd15.model, person(adapter)), latents(), []
    before = predict(model, x, SIGMA, prompt(96))
    for number in range(3):
        clone = model.clone()
        patches = clone.model_options["transformer_options"]["patches_replace"]["attn2"]
        patches[key].add(lambda out, *args, number=number: calls.append(number) or torch.ones_like(out))
        assert patches[("middle", 0)] is patches[("middle", 0, 0)], "one patch under both keys"
        calls.clear()
        assert not torch.equal(predict(clone, x, SIGMA, prompt(96)), before) and calls == [number]
        predict(apply_person(clone, person(adapter, 2)), x, SIGMA, prompt(96))
        assert calls == [number] * 2, "and one more person keeps it"
    assert torch.equal(predict(model, x, SIGMA, prompt(96)), before)


def test_what_another_patch_returned_is_not_written_to(sd15):
    """A patch that keeps its tensor finds the same numbers in it in every call."""
    adapter, kept = stir(new_adapter(layer_map(sd15.model))), {}
    for stream in adapter.streams.values():
        stream.kappa.data.zero_()  # κ needs a copy of the text's attention anyway

    def other(q, k, v, extra_options):
        return kept.setdefault(q.shape, torch.zeros_like(q))

    def override(function, q, *args, **kwargs):
        return kept.setdefault(q.shape, torch.zeros_like(q))

    occupied, overridden = sd15.model.clone(), apply_person(sd15.model, person(adapter))
    occupied.set_model_attn2_replace(other, "middle", 0, 0)
    overridden.model_options["transformer_options"]["optimized_attention_override"] = override
    for model in (apply_person(occupied, person(adapter)), overridden):
        kept.clear()
        results = [predict(model, latents(), SIGMA, prompt(96)) for _ in range(2)]
        assert torch.equal(*results) and kept and not any(tensor.any() for tensor in kept.values())


def test_lora_and_controlnet_still_act(sd15, adapter):
    import comfy.controlnet

    x = latents()
    key = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q.weight"
    with_lora = sd15.model.clone()
    with_lora.add_patches({key: ("diff", (torch.randn(128, 128),))})
    plain = predict(apply_person(sd15.model, person(adapter)), x, SIGMA, prompt(96))
    model = apply_person(with_lora, person(adapter))
    assert not torch.equal(predict(model, x, SIGMA, prompt(96)), plain)
    with_lora.unpatch_model()

    class Control(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            return {"middle": [torch.ones(len(x_noisy), 128, 1, 1)], "output": [], "input": []}

        def copy(self):
            return self

        def get_models(self):
            return []

        def pre_run(self, model, percent_to_timestep_function):
            pass

        def cleanup(self):
            pass

    controlled = prompt(96, control=Control(), control_apply_to_uncond=True)
    ours = predict(apply_person(sd15.model, person(adapter)), x, SIGMA, controlled)
    assert not torch.equal(ours, plain), "the ControlNet acts"
    assert not torch.equal(ours, predict(sd15.model, x, SIGMA, controlled)), "and so does the person"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_precisions(in_comfy, adapter, dtype):
    twins = make_twins(SMALL_SD15, dtype)
    exact = make_twins(SMALL_SD15)
    x = latents(2)
    rough = predict(apply_person(twins.model, person(adapter)), x, SIGMA, prompt(96))
    fine = predict(apply_person(exact.model, person(adapter)), x, SIGMA, prompt(96))
    scale = {torch.float32: 1e-6, torch.float16: 1e-2, torch.bfloat16: 5e-2}[dtype]
    torch.testing.assert_close(rough, fine, rtol=0, atol=scale * fine.abs().max().item())


def test_weights_kept_in_half_and_computed_in_full(in_comfy, adapter):
    """Manual cast, as on cards without fast half precision: keys and values follow what is computed in."""
    twins, exact = make_twins(SMALL_SD15, torch.float16, computed_in=torch.float32), make_twins(SMALL_SD15)
    x = latents()
    rough, fine = (predict(apply_person(t.model, person(adapter)), x, SIGMA, prompt(96)) for t in (twins, exact))
    torch.testing.assert_close(rough, fine, rtol=0, atol=2e-3 * fine.abs().max().item())


def test_low_vram(in_comfy, adapter):
    """With every weight left outside and cast where it is used, a person with a LoRA comes out the same."""
    import comfy.model_management

    key, change = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_k.weight", torch.randn(128, 96)
    x, results = latents(), []
    for budget in (None, 1):
        model = make_twins(SMALL_SD15, torch.float16, computed_in=torch.float32).model.clone()
        model.add_patches({key: ("diff", (change,))})
        model = apply_person(model, person(adapter))
        if budget:
            model.load(torch.device("cpu"), lowvram_model_memory=budget)
            assert model.lowvram_patch_counter() or model.model.model_lowvram, "ComfyUI did not go low"
        results.append(predict(model, x, SIGMA, prompt(96)))
        comfy.model_management.unload_all_models()
    torch.testing.assert_close(*results, rtol=0, atol=2e-3 * results[0].abs().max().item())


def test_adapter_weights_may_be_half(sd15, adapter):
    half = copy.deepcopy(adapter)
    for stream in half.streams.values():
        stream.to_k.half()
        stream.to_v.half()
    x = latents()
    fine = predict(apply_person(sd15.model, person(adapter)), x, SIGMA, prompt(96))
    torch.testing.assert_close(
        predict(apply_person(sd15.model, person(half)), x, SIGMA, prompt(96)),
        fine,
        rtol=0,
        atol=1e-2 * fine.abs().max().item(),
    )


def test_keys_and_values_are_made_once(sd15, adapter, monkeypatch):
    calls = []
    original = Person.keys_values
    monkeypatch.setattr(Person, "keys_values", lambda self, *a: calls.append(1) or original(self, *a))
    predict(apply_person(sd15.model, person(adapter)), latents(), SIGMA, prompt(96), prompt(96, 2), cfg=3.0, times=4)
    assert len(calls) == 1, "one positive prompt, one making, whatever the number of steps"


def test_another_base_is_refused(sd15, sdxl, adapter):
    with pytest.raises(Mismatch, match="load an adapter"):
        apply_person(sdxl.model, person(adapter))


def test_a_model_without_cross_attention_is_refused(in_comfy):
    import comfy.ldm.flux.model
    import comfy.model_patcher

    class Flux(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.diffusion_model = comfy.ldm.flux.model.Flux.__new__(comfy.ldm.flux.model.Flux)
            torch.nn.Module.__init__(self.diffusion_model)

    cpu = torch.device("cpu")
    with pytest.raises(UnsupportedModel, match="Flux.*SDXL|SDXL.*Flux"):
        layer_map(comfy.model_patcher.ModelPatcher(Flux(), cpu, cpu))


def test_kappa_keeps_the_prompt(sd15, adapter):
    """At κ 1 a stream that repeats the text's own attention adds nothing along it."""
    from facecdm.adapter.attention import LayerStream, attend, triplet_attention

    q, k, v = (torch.randn(2, 5, 16) for _ in range(3))
    text = attend(q, k, v, 2)
    again = LayerStream(0, 2, k, v, torch.ones(16), torch.tensor(1.0))
    with torch.no_grad():
        torch.testing.assert_close(triplet_attention(q, text.clone(), [again], 2, attend), text)
    settings = {"face": Stream(kappa=1.0), "image": Stream(kappa=1.0)}
    x = latents()
    kept, free = (
        predict(apply_person(sd15.model, p), x, SIGMA, prompt(96))
        for p in (person(adapter, settings=settings), person(adapter))
    )
    assert not torch.equal(kept, free)
