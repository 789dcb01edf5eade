"""What a U-Net call costs with people in it, counted by the torch profiler."""

import torch
from counting import ATTENTION, COPIES, LINEAR, SYNCS, operations, total
from twins import conditioning, new_adapter, predict, stir

from facecdm.adapter.person import Person, Stream
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map


def test_cost_of_people(twins, monkeypatch):
    import comfy.ldm.modules.attention as attention

    # One operation an attention call, whatever ComfyUI would choose on this machine.
    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    adapter = stir(new_adapter(layer_map(twins.model)))
    layers = len(adapter.config.layer_map.layers)
    prompt, negative = (conditioning(torch.randn(1, 77, twins.context), torch.randn(1, 1280)) for _ in range(2))
    plain = operations(twins.model, prompt, negative)
    model = twins.model
    for people in (1, 2):
        face = torch.nn.functional.normalize(torch.randn(1, 512), dim=1)
        model = apply_person(model, Person(adapter, face, torch.randn(1, 7, 32)))
        counts = operations(model, prompt, negative)
        assert total(counts, LINEAR) == total(plain, LINEAR)
        assert total(counts, SYNCS) == total(plain, SYNCS)
        assert total(counts, COPIES) == total(plain, COPIES)
        assert total(counts, ATTENTION) - total(plain, ATTENTION) == 2 * layers * people
        assert counts["aten::addcmul_"] - plain["aten::addcmul_"] == 2 * layers * people, "every layer, the middle too"


def test_layers_with_the_factor_zero_are_not_computed(twins, monkeypatch):
    import comfy.ldm.modules.attention as attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    adapter = stir(new_adapter(layer_map(twins.model)))
    curve = tuple(number % 3 / 2 for number in range(len(adapter.config.layer_map.layers)))
    prompt, negative = (conditioning(torch.randn(1, 77, twins.context), torch.randn(1, 1280)) for _ in range(2))
    face, image = torch.nn.functional.normalize(torch.randn(1, 512), dim=1), torch.randn(1, 7, 32)
    settings, x = {"face": Stream(0.8, curve, kappa=0.3), "image": Stream()}, torch.randn(1, 4, 8, 8)
    seen = {}
    for all_layers in (True, False):
        person = Person(adapter, face, image, settings, evaluate_zero=all_layers)
        model = apply_person(twins.model, person)
        predicted = predict(model, x, 1.0, prompt, negative, cfg=4.0)
        seen[all_layers] = predicted, total(operations(model, prompt, negative), ATTENTION)
    assert torch.equal(seen[True][0], seen[False][0])
    assert seen[True][1] - seen[False][1] == curve.count(0) > 2


def test_a_router_sees_the_layers_with_the_factor_zero(twins):
    adapter = stir(new_adapter(layer_map(twins.model), router=True))
    curve = (0.0,) * len(adapter.config.layer_map.layers)
    person = Person(adapter, torch.randn(1, 512), torch.randn(1, 7, 32), {"face": Stream(1.0, curve)})
    text = torch.randn(1, 77, twins.context)
    assert all(person.keys_values(text, torch.device("cpu"), torch.float32)["face"])
    with torch.no_grad():
        for stream in adapter.streams.values():
            stream.router.zero_()
    assert not any(person.keys_values(text, torch.device("cpu"), torch.float32)["face"])


def test_finding_the_face_adds_no_sync_and_no_work_in_the_layers(twins):
    """The head adds four convolutions, once a step, and the locations are computed once per resolution."""
    sizes = {"image_width": 0, "face_tokens": 16, "spatial_tokens": True}
    prompt, negative = (conditioning(torch.randn(1, 77, twins.context), torch.randn(1, 1280)) for _ in range(2))
    counts, face = {}, torch.nn.functional.normalize(torch.randn(1, 512), dim=1)
    points = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / SIZE
    for channels, given in ((0, points), (4, None)):
        adapter = stir(new_adapter(layer_map(twins.model), location_channels=channels, **sizes))
        model = apply_person(twins.model, Person(adapter, face, keypoints=given))
        counts[channels] = operations(model, prompt, negative)
    told, found = counts[0], counts[4]
    assert total(told, SYNCS) == total(operations(twins.model, prompt, negative), SYNCS)
    # On a CPU σ is read once, and inv_ex reads two values; on a GPU neither (tests/adapter/test_location_finder.py).
    assert total(found, SYNCS) - total(told, SYNCS) == 2 * (1 + 2), "item and _local_scalar_dense"
    assert found["aten::convolution"] - told["aten::convolution"] == 5, "four and the heat maps"
    assert total(found, ATTENTION) == total(told, ATTENTION)
    assert found["aten::addcmul_"] == told["aten::addcmul_"]
    assert found["aten::linalg_inv_ex"] == 1, "once a step for all layers"


def test_clones_copy_no_tensor(sd15):
    adapter = stir(new_adapter(layer_map(sd15.model)))
    model = apply_person(sd15.model, Person(adapter, torch.randn(1, 512), torch.randn(1, 7, 32)))
    model.clone()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        clones = [model.clone() for _ in range(50)]
    assert [event.key for event in profile.key_averages() if event.key.startswith("aten::")] == []
    people = {id(clone.model_options["transformer_options"]["facecdm_people"][0]) for clone in clones}
    assert len(people) == 1
