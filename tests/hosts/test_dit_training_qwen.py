"""Training of Qwen-Image and Z-Image: both hosts predict, observe and differentiate the same, as their samplings do."""

from functools import partial

import pytest
import qwen_image
import torch
import z_image
from dit_lab import check_all_close, denoisers, observed_and_gradients
from tensors import close
from twins import predict, stir

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.location_finder import Prediction
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.person import Person
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.bases.noise import Flow
from facecdm.errors import FaceCDMError, UnsupportedModel
from facecdm.hosts.comfy.base_model import text_keys_values
from facecdm.hosts.comfy.latents import with_frames, without_frames
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.sampling import Span
from facecdm.training.lora import Lora
from facecdm.training.rows import Prompt

T, ON = torch.tensor([300, 700]), torch.tensor([True, True])
SHIFT = {qwen_image: torch.exp(torch.tensor(1.15)), z_image: torch.tensor(3.0)}


@pytest.fixture(scope="module", params=[qwen_image, z_image], ids=["qwen_image", "z_image"])
def family(request, in_comfy):
    return request.param


@pytest.fixture(scope="module")
def twins(family):
    return family.make_twins()


@pytest.fixture(scope="module")
def hosts(twins):
    with denoisers(twins) as hosts:
        yield hosts


@pytest.fixture
def adapter(hosts):
    torch.manual_seed(1)
    sizes = dict(face_rank=8, image_width=20, image_layers=1, token_width=64, cell_width=128)
    return TripletAdapter(AdapterConfig.new(hosts[0].layer_map, **sizes))


def batch(adapter, lengths):
    """Latents, prompts and references of one row for each length."""
    rng, rows, longest = torch.Generator().manual_seed(2), len(lengths), max(lengths)
    shapes = (16, 8, 12), (7, adapter.config.layer_map.context), (512,), (5, 20)
    x, text, face, image = (torch.randn(2, *shape, generator=rng)[:rows] for shape in shapes)
    shown = torch.arange(longest) < torch.tensor(lengths)[:, None]
    prompt = Prompt(text[:, :longest] * shown[..., None], lengths=torch.tensor(lengths))
    return x, prompt, ReferenceBatch(torch.nn.functional.normalize(face, dim=1), image, ON[:rows], ON[:rows])


def streams(adapter, denoiser, references, prompt, t=T):
    sigma = (denoiser.noise / denoiser.signal)[t]
    return references.streams(adapter, prompt.states, sigma, torch.float32, text_mask=prompt.mask)


def sampled(model, x, sigma: float, prompt, times: int = 1):
    """The velocity [B, 16, h, w] of ComfyUI's sampling, at the last of `times` steps."""
    latents, text = with_frames(x, model.model.latent_format), [[prompt.states, {}]]
    return without_frames(predict(model, latents, sigma, text, times=times))


@torch.no_grad()
def test_the_hosts_predict_what_they_sample(family, twins, hosts, adapter):
    sigma, shift = float(hosts[0].noise[300]), SHIFT[family]
    x, prompt, references = batch(adapter, [7])
    close(hosts[0].noise[499], shift / (shift + 1), 1e-6)
    plain, text = sampled(twins[0], x, sigma, prompt), [[prompt.states, {}]]
    close(plain, family.diffusers_prediction(twins[1], x, sigma, text), 1e-4)
    person = Person(stir(adapter), references.face, references.image)
    with DiffusersDit(twins[1]).people(
        [Span(person, 0, 1, prompt.states)], torch.tensor([sigma]), (8, 12)
    ) as transformer:
        shown = family.diffusers_prediction(transformer, x, sigma, text)
    for denoiser in hosts:
        close(denoiser.predict(x, T[:1], prompt), plain, 1e-4)
        close(denoiser.predict(x, T[:1], prompt, streams(adapter, denoiser, references, prompt, T[:1])), shown, 1e-4)
    with pytest.raises(AssertionError):
        close(plain, shown, 1e-2)


@torch.no_grad()
def test_comfyui_samples_the_same(family, twins, hosts, adapter):
    x, prompt, references = batch(adapter, [7])
    person, sigma = Person(adapter, references.face, references.image), float(hosts[0].noise[300])
    if family is z_image and not z_image.blocks_are_patched():
        for refused in (lambda: apply_person(twins[0], person), lambda: text_keys_values(twins[0])):
            with pytest.raises(UnsupportedModel, match="no patch after the blocks of Z-Image"):
                refused()
        return
    list(text_keys_values(twins[0]))
    assert torch.equal(sampled(apply_person(twins[0], person), x, sigma, prompt), sampled(twins[0], x, sigma, prompt))
    stir(adapter)
    ours = sampled(apply_person(twins[0], person), x, sigma, prompt)
    people = streams(adapter, hosts[1], references, prompt, T[:1])
    close(hosts[1].predict(x, T[:1], prompt, people), ours, 1e-4)


@torch.no_grad()
def test_a_face_that_one_step_finds_is_where_the_next_shows_it(family, twins, hosts):
    if family is z_image and not z_image.blocks_are_patched():
        pytest.skip("this ComfyUI calls no patches after the blocks of Z-Image; 0.33 does")
    torch.manual_seed(1)
    sizes = dict(face_tokens=4, spatial_tokens=True, location_channels=16, token_width=64, cell_width=128)
    adapter = stir(TripletAdapter(AdapterConfig.new(hosts[0].layer_map, face_rank=8, image_tokens=0, **sizes)))
    adapter.location_head.heat.weight.mul_(100)
    adapter.location_head.spread.bias.fill_(-6.0)
    x, prompt, references = batch(adapter, [7])
    person, text = Person(adapter, references.face, mask=torch.eye(8, 12)), [[prompt.states, {}]]
    shown, sigma = apply_person(twins[0], person), 0.3
    first, second = (sampled(shown, x, sigma, prompt, times) for times in (1, 2))
    assert torch.equal(first, sampled(twins[0], x, sigma, prompt)), "nothing is found before the first step"
    assert (second - first).abs().max() > 1e-2 * first.abs().max()
    level = torch.tensor([sigma])
    before = Prediction(x - sigma * first, Flow.ratio(level))
    with DiffusersDit(twins[1]).people([Span(person, 0, 1, prompt.states)], level, (8, 12), before) as transformer:
        close(family.diffusers_prediction(transformer, x, sigma, text), second, 1e-4)


def test_fp8_weights_stay_as_they_are(in_comfy, family, adapter):
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser

    model = family.make_model(torch.float8_e4m3fn, computed_in=torch.float32)
    before = {name: value.float() for name, value in model.model.diffusion_model.named_parameters()}
    stir(adapter).requires_grad_(True)
    x, prompt, references = batch(adapter, [7, 7])
    with ComfyDitDenoiser(model) as denoiser:
        denoiser.checkpoint(True)
        out = denoiser.predict(x, T, prompt, streams(adapter, denoiser, references, prompt))
        out.square().mean().backward()
    assert adapter.streams["face"].queries[0].to_q.weight.grad.any()
    for name, value in model.model.diffusion_model.named_parameters():
        assert value.dtype == torch.float8_e4m3fn and torch.equal(value.float(), before[name]), name


@torch.no_grad()
def test_prompts_of_several_lengths_are_as_alone(family, hosts, adapter):
    stir(adapter)
    x, prompt, references = batch(adapter, [7, 5])
    for denoiser in hosts:
        if family is z_image and denoiser is hosts[0]:
            with pytest.raises(FaceCDMError, match="Z-Image in ComfyUI has no mask"):
                denoiser.predict(x, T, prompt)
            continue
        together = denoiser.predict(x, T, prompt, streams(adapter, denoiser, references, prompt))
        for row, length in enumerate(prompt.lengths.tolist()):
            part = slice(row, row + 1)
            own = Prompt(prompt.states[part, :length], lengths=prompt.lengths[part])
            alone = ReferenceBatch(references.face[part], references.image[part], ON[:1], ON[:1])
            people = streams(adapter, denoiser, alone, own, T[part])
            close(together[part], denoiser.predict(x[part], T[part], own, people), 1e-4)


def test_gradients_agree(hosts, adapter):
    stir(adapter).requires_grad_(True)
    x, prompt, references = batch(adapter, [7, 7])
    found = []
    for denoiser in hosts:
        for repeat in (False, True):
            people = streams(adapter, denoiser, references, prompt)
            predict_with = partial(denoiser.predict, x, T, prompt, people, None)
            found.append(observed_and_gradients(denoiser, adapter, repeat, predict_with))
            width, blocks = denoiser.layer_map.layers[0].width, len(denoiser.layer_map.layers)
            assert [value.shape for value in found[-1][0]] == [(2, 24, width), (2, 7, width)] * blocks
    check_all_close(found)


def test_core_reads_the_lora_of_either_host(twins, hosts, adapter):
    import comfy.sd

    x, prompt, _ = batch(adapter, [7])
    for denoiser in hosts:
        assert denoiser.linears().keys() < denoiser.layers().keys()
        lora = Lora.new(denoiser.layers(), 2)
        for number, part in enumerate(lora.parts.values()):
            torch.nn.init.normal_(part.up, 0, 0.1, generator=torch.Generator().manual_seed(number))
        patched, _ = comfy.sd.load_lora_for_models(twins[0], None, lora.tensors(), 1.0, 0)
        assert sum(len(entries) for entries in patched.patches.values()) == len(lora.parts)
        with torch.no_grad(), lora.on(denoiser.layers()):
            ours = denoiser.predict(x, T[:1], prompt)
        close(ours, sampled(patched, x, float(denoiser.noise[300]), prompt), 1e-3)


def test_several_frames_are_refused(family, twins, adapter):
    if family is z_image:
        pytest.skip("Z-Image's latents have no frames")
    _, prompt, references = batch(adapter, [7])
    shown = apply_person(twins[0], Person(adapter, references.face, references.image))
    with pytest.raises(UnsupportedModel, match="3 frames"):
        predict(shown, torch.randn(1, 16, 3, 8, 8), 0.5, [[prompt.states, {}]])
