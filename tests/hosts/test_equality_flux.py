"""Both hosts run the same cells in Flux.1: equal velocities on equal tensors."""

import flux
import pytest
import torch
from published_flux import SMALL_FLUX, features, person, pulid_flux, state_of
from tensors import close
from twins import predict

from facecdm import bases
from facecdm.adapter.person import Person, Stream
from facecdm.errors import UnsupportedModel
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import canonical
from facecdm.hosts.comfy.base_model import layer_map
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.sampling import Span

SIGMA = 0.7


@pytest.fixture(scope="module")
def twins(in_comfy):
    """(ComfyUI's MODEL, diffusers' transformer) of the same weights, which core converts."""
    from comfy.model_detection import convert_diffusers_mmdit
    from diffusers import FluxTransformer2DModel

    torch.manual_seed(0)
    transformer = FluxTransformer2DModel(
        num_layers=3,
        num_single_layers=5,
        attention_head_dim=24,
        num_attention_heads=2,
        joint_attention_dim=40,
        pooled_projection_dim=24,
        guidance_embeds=True,
        axes_dims_rope=(4, 10, 10),
    )
    transformer.eval().requires_grad_(False)
    model = flux.make_flux()
    state = {key: value.clone() for key, value in transformer.state_dict().items()}  # core swaps halves in place
    model.model.diffusion_model.load_state_dict(convert_diffusers_mmdit(state, ""))
    return model, transformer


@pytest.fixture
def adapter(twins, monkeypatch):
    monkeypatch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map(twins[0])))
    return import_adapter(canonical(state_of(pulid_flux(SMALL_FLUX, 4)), {}, "a.safetensors"))


def pack(x):
    """Latents [B, 16, h, w] → tokens, as the pipeline of diffusers packs them."""
    rows, _, height, width = x.shape
    return x.reshape(rows, 16, height // 2, 2, width // 2, 2).permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def ids(height: int, width: int, first: int = 0):
    grid = torch.zeros(height // 2, width // 2, 3)
    grid[..., 0] = first
    grid[..., 1] += torch.arange(height // 2)[:, None]
    grid[..., 2] += torch.arange(width // 2)
    return grid.flatten(0, 1)


def compare(twins, people, batch: int = 2, size=(8, 12), references=()):
    """(velocity of ComfyUI, of diffusers), packed."""
    model, transformer = twins
    x, prompt = flux.latents(size, batch), flux.prompt(model, reference_latents=list(references) or None)
    patched = model
    for one in people:
        patched = apply_person(patched, one)
    ours = pack(predict(patched, x, SIGMA, prompt))
    ((text, options),) = prompt
    more = [model.model.process_latent_in(one) for one in references]
    tokens = torch.cat([pack(x), *(pack(one).expand(batch, -1, -1) for one in more)], 1)
    places = torch.cat([ids(*size), *(ids(*one.shape[-2:], 1) for one in more)])
    host = DiffusersDit(transformer)
    with torch.no_grad(), host.people([Span(one, 0, batch) for one in people], torch.tensor([SIGMA]), size):
        theirs = transformer(
            tokens,
            text.expand(batch, -1, -1),
            options["pooled_output"].expand(batch, -1),
            torch.full((batch,), SIGMA),
            places,
            torch.zeros(text.shape[1], 3),
            torch.full((batch,), options["guidance"]),
        ).sample[:, : ours.shape[1]]
    return ours, theirs


def test_layer_maps_agree(twins):
    assert DiffusersDit(twins[1]).layer_map == layer_map(twins[0])
    with pytest.raises(UnsupportedModel, match="Linear has no double and single blocks"):
        DiffusersDit(torch.nn.Linear(1, 1))


def test_without_people_the_twins_agree(twins):
    close(*compare(twins, []), 1e-4)


def test_two_people_with_masks_curves_and_kappa(twins, adapter):
    left, right = torch.zeros(64, 96), torch.zeros(64, 96)
    left[:, :40], right[:, 40:] = 1, 1
    curve = (1.0, 0.0, 0.5, 2.0, 0.0, 0.0, 0.0, 0.7)
    settings = {"face": Stream(0.8, curve, kappa=0.4)}
    people = [person(adapter, 1, 2, mask=left, settings=settings), person(adapter, 2, mask=right)]
    ours, theirs = compare(twins, people)
    close(ours, theirs, 1e-4)
    with pytest.raises(AssertionError):
        close(ours, compare(twins, [])[0], 1e-2)


def test_one_reference_per_picture_beside_reference_latents(twins, adapter):
    people = [Person(adapter, features(0, 2), per_picture=True)]
    close(*compare(twins, people, references=[flux.latents((6, 8), seed=4)]), 1e-4)


def test_gradients_reach_the_cells(twins, adapter):
    """A trainer's forward pass writes nothing in place."""
    transformer, size, text = twins[1], (8, 12), torch.randn(1, 7, 40)
    for value in adapter.streams["face"].queries.parameters():
        value.requires_grad_(True)
    host = DiffusersDit(transformer)
    with host.people([Span(person(adapter), 0, 1)], torch.tensor([SIGMA]), size):
        args = pack(flux.latents(size)), text, torch.randn(1, 24), torch.tensor([SIGMA]), ids(*size), torch.zeros(7, 3)
        transformer(*args, torch.tensor([3.5])).sample.sum().backward()
    assert all(value.grad.any() for value in adapter.streams["face"].queries.parameters())
