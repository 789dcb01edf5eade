"""FaceCDM's own adapter in a DiT: cells after some blocks, the same in both hosts."""

from dataclasses import replace

import flux
import flux_twins
import pytest
import torch
from counting import ATTENTION, SYNCS, operations, total
from tensors import close
from twins import predict, stir

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.adapter.person import Person, Stream
from facecdm.bases import BASES
from facecdm.errors import FaceCDMError
from facecdm.faces.align import TEMPLATE
from facecdm.faces.location import SIZE as FACE
from facecdm.formats.export import export
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.sampling import Span

SIGMA, SIZE, SIDE = 0.7, (8, 12), 6


@pytest.fixture(scope="module")
def twins(in_comfy):
    return flux_twins.make_twins(40)


def new_adapter(model, seed: int = 1, **sizes) -> TripletAdapter:
    torch.manual_seed(seed)
    small = dict(face_rank=16, image_width=32, image_tokens=5, image_layers=1, token_width=64, cell_width=128)
    config = AdapterConfig.new(layer_map(model), **small | {"cell_every": 2} | sizes)
    return TripletAdapter(config).requires_grad_(False).eval()


def person(adapter, **more) -> Person:
    generator = torch.Generator().manual_seed(3)
    face = torch.nn.functional.normalize(torch.randn(2, 512, generator=generator), dim=1)
    return Person(adapter, face, torch.randn(1, 7, 32, generator=generator), **more)


def compare(twins, people):
    """(velocity of ComfyUI, of diffusers)."""
    model, transformer = twins
    x, prompt = flux.latents(SIZE, 2), flux.prompt(model)
    patched = model
    for one in people:
        patched = apply_person(patched, one)
    ours, text = predict(patched, x, SIGMA, prompt), prompt[0][0]
    host = DiffusersDit(transformer)
    with host.people([Span(one, 0, 2, text) for one in people], torch.tensor([SIGMA]), SIZE):
        theirs = flux_twins.diffusers_prediction(transformer, x, SIGMA, prompt)
    return ours, theirs


def test_a_new_adapter_changes_no_bit(twins):
    adapter = new_adapter(twins[0])
    assert adapter.is_new and adapter.streams["face"].at == (0, 2, 4)
    for with_person, without in zip(compare(twins, [person(adapter)]), compare(twins, [])):
        assert torch.equal(with_person, without)


def test_the_cost_of_a_call(twins, monkeypatch):
    """Two linear layers and an attention for each cell of each stream, and no host sync. Tokens, keys and values, and
    the face's location are computed once a prompt."""
    import comfy.ldm.modules.attention as attention

    monkeypatch.setattr(attention, "optimized_attention", attention.attention_pytorch)
    model = twins[0]
    prompts = flux.prompt(model, 1), flux.prompt(model, 2)
    plain = operations(model, *prompts, channels=16)
    keypoints = torch.tensor(TEMPLATE, dtype=torch.float32)[None] / FACE
    for sizes, located in (({}, None), ({"face_tokens": 16, "spatial_tokens": True}, keypoints)):
        adapter = stir(new_adapter(model, **sizes))
        streams = {name: Stream(kappa=0.3) for name in adapter.streams}
        counts = operations(
            apply_person(model, person(adapter, settings=streams, keypoints=located)), *prompts, channels=16
        )
        cells = sum(len(stream.at) for stream in adapter.streams.values())
        assert cells == 6 and counts["aten::linear"] - plain["aten::linear"] == 2 * cells
        assert total(counts, ATTENTION) - total(plain, ATTENTION) == cells
        assert total(counts, SYNCS) == total(plain, SYNCS)


def test_the_hosts_agree(twins):
    """Gates over the noise level, text in the tokens, masks, κ, curves, and the location of a face."""
    adapter = stir(new_adapter(twins[0], face_tokens=SIDE**2, spatial_tokens=True, face_content=8))
    left = torch.zeros(64, 96)
    left[:, :40] = 1
    points = torch.tensor([[[0.2, 0.3], [0.4, 0.3], [0.3, 0.5], [0.2, 0.6], [0.4, 0.6]]])
    settings = {"face": Stream(0.8, (1.0, 0.0, 2.0, 1.0, 0.5), kappa=0.4), "image": Stream(0.5)}
    people = [person(adapter, keypoints=points, mask=left, settings=settings), person(adapter)]
    ours, theirs = compare(twins, people)
    close(ours, theirs, 1e-4)
    for fewer in (people[:1], people[1:], [replace(people[0], keypoints=None), people[1]]):
        with pytest.raises(AssertionError):
            close(ours, compare(twins, fewer)[0], 1e-3)


def test_gates_depend_on_the_noise_relative_to_the_signal(twins):
    adapter = stir(new_adapter(twins[0], image_width=0))
    with torch.no_grad():
        adapter.streams["face"].gate.knots[:-1] = 0  # t / (1 − t) = 15 at the last knot
    x, prompt = flux.latents(SIZE), flux.prompt(twins[0])
    patched = apply_person(twins[0], person(adapter))
    for sigma, equal in ((0.5, True), (0.95, False)):
        same = torch.equal(predict(patched, x, sigma, prompt), predict(twins[0], x, sigma, prompt))
        assert same is equal


def test_the_prompt_reaches_the_tokens(twins):
    adapter = stir(new_adapter(twins[0]))
    one, other = (
        person(adapter).keys_values(flux.prompt(twins[0], seed)[0][0], torch.device("cpu"), torch.float32)
        for seed in (1, 2)
    )
    for stream in ("face", "image"):
        assert [layer is not None for layer in one[stream]] == [True, False, True, False, True]
        assert not torch.allclose(one[stream][0][0], other[stream][0][0])


def test_a_file_holds_all_of_it(twins, tmp_path):
    adapter = stir(new_adapter(twins[0]))
    loaded = load_adapter(save_adapter(adapter, tmp_path, "a", notes={"one": "two"}))
    assert loaded.config == adapter.config
    state = loaded.state_dict()
    assert state.keys() == adapter.state_dict().keys()
    assert all(torch.equal(state[key], value) for key, value in adapter.state_dict().items())
    model = apply_person(twins[0], person(loaded))  # ComfyUI's layers take the weights
    assert model is not twins[0]
    again = load_adapter(save_adapter(loaded, tmp_path, "b"))
    assert all(torch.equal(again.state_dict()[key], value) for key, value in adapter.state_dict().items())


def test_no_export(twins):
    with pytest.raises(FaceCDMError, match="cells for the blocks"):
        export(stir(new_adapter(twins[0])))


def test_sizes_of_a_new_adapter(twins):
    config = AdapterConfig.new(layer_map(twins[0]))
    assert (config.token_width, config.cell_width, config.cell_every) == (1024, 64, 1)
    widths = {
        base.name: AdapterConfig.new(base.layer_map).cell_width for base in BASES.values() if base.layer_map.is_dit
    }
    assert widths.pop("SD3.5 Large") == 384 and widths.pop("SD3.5 Medium") == 256 and set(widths.values()) == {512}
    with pytest.raises(FaceCDMError, match="router"):
        AdapterConfig.new(layer_map(twins[0]), router=True)
