"""Training of SD3.5: both hosts predict, observe and differentiate the same, as their samplings do."""

from functools import partial

import flux
import pytest
import sd35
import torch
from dit_lab import check_all_close, denoisers, observed_and_gradients
from tensors import close
from twins import predict, stir

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.person import Person
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.errors import FaceCDMError
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.sampling import Span
from facecdm.training.lora import Lora
from facecdm.training.rows import Prompt

T, ON = torch.tensor([300]), torch.tensor([True])


@pytest.fixture(scope="module")
def twins(in_comfy):
    return sd35.make_twins()


@pytest.fixture(scope="module")
def hosts(twins):
    with denoisers(twins) as hosts:
        yield hosts


@pytest.fixture
def shown(hosts, twins):
    """An adapter, its person, latents, CONDITIONING and the same prompt in training."""
    torch.manual_seed(1)
    sizes = dict(face_rank=8, image_width=20, image_layers=1, token_width=64, cell_width=128)
    adapter = stir(TripletAdapter(AdapterConfig.new(hosts[0].layer_map, **sizes)))
    face, image = torch.nn.functional.normalize(torch.randn(1, 512), dim=1), torch.randn(1, 5, 20)
    conditioning = flux.prompt(twins[0])
    text, more = conditioning[0]
    prompt = Prompt(text, more["pooled_output"], lengths=torch.tensor([text.shape[1]]))
    return adapter, Person(adapter, face, image), torch.randn(1, 16, 8, 8), conditioning, prompt


def streams(person, prompt, sigma: float):
    references = ReferenceBatch(person.face, person.image, ON, ON)
    return references.streams(person.adapter, prompt.states, torch.tensor([sigma / (1 - sigma)]), torch.float32)


@torch.no_grad()
def test_the_hosts_predict_what_they_sample(twins, hosts, shown):
    adapter, person, x, conditioning, prompt = shown
    sigma = float(hosts[0].noise[300])
    close(hosts[0].noise[499], torch.tensor(0.75), 1e-6)  # shifted by a factor of 3
    plain = predict(twins[0], x, sigma, conditioning)
    ours = predict(apply_person(twins[0], person), x, sigma, conditioning)
    for denoiser in hosts:
        close(denoiser.predict(x, T, prompt), plain, 1e-4)
        close(denoiser.predict(x, T, prompt, streams(person, prompt, sigma)), ours, 1e-4)
    host = DiffusersDit(twins[1])
    with host.people([Span(person, 0, 1, prompt.states)], torch.tensor([sigma]), (8, 8)) as transformer:
        close(transformer(x, prompt.states, prompt.pooled, torch.tensor([1000 * sigma])).sample, ours, 1e-4)
    with pytest.raises(AssertionError):
        close(plain, ours, 1e-2)


def test_gradients_agree(hosts, shown):
    adapter, person, x, _, prompt = shown
    adapter.requires_grad_(True)
    found = []
    for denoiser in hosts:
        for repeat in (False, True):
            people = streams(person, prompt, float(denoiser.noise[300]))
            predict_with = partial(denoiser.predict, x, T, prompt, people, None)
            found.append(observed_and_gradients(denoiser, adapter, repeat, predict_with))
            assert len(found[-1][0]) == 6
    check_all_close(found)


def test_core_reads_the_lora_of_either_host(twins, hosts):
    import comfy.sd

    for denoiser in hosts:
        assert denoiser.linears().keys() < denoiser.layers().keys()
        lora = Lora.new(denoiser.linears(), 2)
        patched, _ = comfy.sd.load_lora_for_models(twins[0], None, lora.tensors(), 1.0, 0)
        assert sum(len(entries) for entries in patched.patches.values()) == len(lora.parts)


def test_prompts_of_several_lengths_are_refused(hosts, shown):
    _, _, x, _, prompt = shown
    several = Prompt(prompt.states, prompt.pooled, lengths=torch.tensor([3]))
    for denoiser in hosts:
        with pytest.raises(FaceCDMError, match="no mask"):
            denoiser.predict(x, T, several)
