"""Training of a DiT: both hosts predict, observe and differentiate the same, as their samplings do."""

from types import SimpleNamespace

import flux
import flux_twins
import pytest
import torch
from dit_lab import CONTEXT, DitSource, denoisers
from lab import Shrink
from tensors import close
from twins import predict, stir

from facecdm.adapter.person import Person
from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.errors import FaceCDMError, UnsupportedModel
from facecdm.hosts.comfy.base_model import text_keys_values
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.dit_denoiser import DiffusersDitDenoiser
from facecdm.hosts.diffusers.sampling import Span
from facecdm.training.initialise import new_adapter
from facecdm.training.lora import Lora
from facecdm.training.rows import Prompt

T = torch.tensor([300, 700])


@pytest.fixture(scope="module")
def twins(in_comfy):
    return flux_twins.make_twins(CONTEXT)


@pytest.fixture(scope="module")
def hosts(twins):
    with denoisers(twins) as hosts:
        yield hosts


@pytest.fixture(scope="module")
def data():
    return DitSource()


def prepare(denoiser) -> None:
    """Undo what a sampling has made of ComfyUI's weights."""
    getattr(denoiser, "prepare", lambda: None)()


def made(denoiser, data, **sizes):
    small = dict(face_rank=8, face_tokens=2, image_tokens=2, image_layers=1, token_width=64, cell_width=128)
    return new_adapter(denoiser, data, **small | sizes)


def batch(denoiser, data, adapter, gradients: bool = False, watch=None):
    rows, (face, vision) = data.load([0, 3]), data.features([0, 3])
    on = torch.ones(2, dtype=torch.bool)
    references = ReferenceBatch(torch.nn.functional.normalize(face, dim=1), vision, on, on)
    with torch.set_grad_enabled(gradients):
        sigma = (denoiser.noise / denoiser.signal)[T]
        text, mask = rows.prompt.states, rows.prompt.mask
        return rows, references.streams(adapter, text, sigma, torch.float32, watch=watch, text_mask=mask)


def test_levels_are_those_of_the_schedule(hosts):
    comfy, diffusers = hosts
    assert len(comfy.noise) == 1000 and comfy.noise[-1] == 1 and comfy.prediction == "flow"
    shifted = torch.exp(torch.tensor(1.15)) / (torch.exp(torch.tensor(1.15)) + 1 / torch.tensor(0.5) - 1)
    close(comfy.noise[499], shifted, 1e-6)


def test_the_hosts_predict_what_they_sample(twins, hosts, data):
    """One row, without the padding of a batch; with a person as Apply FaceCDM applies it."""
    model, transformer = twins
    adapter = stir(made(hosts[0], data))
    sigma = float(hosts[0].noise[300])
    x, prompt = flux.latents((8, 8)), flux.prompt(model)
    text = Prompt(prompt[0][0], prompt[0][1]["pooled_output"], lengths=torch.tensor([7]))
    face, vision = data.features([0])
    face = torch.nn.functional.normalize(face, dim=1)
    on = torch.tensor([True])
    streams = ReferenceBatch(face, vision, on, on).streams(
        adapter, text.states, torch.tensor([sigma / (1 - sigma)]), torch.float32
    )
    shown = predict(apply_person(model, Person(adapter, face, vision)), x, sigma, prompt)
    for denoiser in hosts:
        plain = denoiser.predict(x, T[:1], text, guidance=3.5)
        close(plain, flux_twins.diffusers_prediction(transformer, x, sigma, prompt), 1e-4)
        close(denoiser.predict(x, T[:1], text, streams, guidance=3.5), shown, 1e-4)
        assert (plain - denoiser.predict(x, T[:1], text, guidance=1.0)).abs().max() > 1e-4
    with pytest.raises(AssertionError):
        close(plain, shown, 1e-2)


def test_prompts_of_several_lengths_are_as_alone(hosts, data):
    for denoiser in hosts:
        adapter = stir(made(denoiser, data))
        rows, streams = batch(denoiser, data, adapter)
        together = denoiser.predict(rows.latents, T, rows.prompt, streams)
        for i, index in enumerate((0, 3)):
            own = data.load([index])
            length = int(own.prompt.lengths)
            prompt = Prompt(own.prompt.states[:, :length], own.prompt.pooled, lengths=own.prompt.lengths)
            face, vision = data.features([index])
            on = torch.tensor([True])
            sigma = (denoiser.noise / denoiser.signal)[T[i : i + 1]]
            alone = ReferenceBatch(torch.nn.functional.normalize(face, dim=1), vision, on, on)
            streams = alone.streams(adapter, prompt.states, sigma, torch.float32)
            close(together[i : i + 1], denoiser.predict(own.latents, T[i : i + 1], prompt, streams), 1e-4)


class Queries(list):
    def __call__(self, *observed):
        self.append(observed)


@pytest.mark.parametrize("repeat", [False, True])
def test_gradients_agree_and_reach_every_weight(hosts, data, repeat):
    found = []
    for denoiser in hosts:
        prepare(denoiser)
        adapter = stir(made(denoiser, data)).requires_grad_(True)
        outputs, queries = [], Queries()
        rows, streams = batch(denoiser, data, adapter, True, None if repeat else outputs.append)
        denoiser.checkpoint(repeat)
        out = denoiser.predict(rows.latents, T, rows.prompt, streams, watch=queries)
        (out.square().mean() + sum(q.square().mean() + k.square().mean() for _, q, k in queries)).backward()
        denoiser.checkpoint(False)
        assert [index for index, _, _ in queries] == list(range(5)) and len(outputs) == (0 if repeat else 5)
        gradients = {name: value.grad for name, value in adapter.named_parameters()}
        gradients |= {f"q{index}": q for index, q, _ in queries} | {f"k{index}": k for index, _, k in queries}
        found.append(gradients)
    ours, theirs = found
    restored = ("face_projector.restore",)  # the bottleneck loss alone trains it
    for name, value in ours.items():
        if not name.startswith(restored):
            assert value.any(), name
            close(value, theirs[name], 1e-3)


def test_checkpointing_changes_no_gradient(hosts, data):
    for denoiser in hosts:
        prepare(denoiser)
        found = []
        for repeat in (False, True):
            adapter = stir(made(denoiser, data)).requires_grad_(True)
            rows, streams = batch(denoiser, data, adapter, True)
            denoiser.checkpoint(repeat)
            lora = Lora.new(denoiser.linears(), 2)
            for part in lora.parts.values():
                torch.nn.init.constant_(part.up, 0.01), torch.nn.init.constant_(part.down, 0.02)
                part.requires_grad_(True)
            with lora.on(denoiser.layers()):
                denoiser.predict(rows.latents, T, rows.prompt, streams).square().mean().backward()
            denoiser.checkpoint(False)
            parts = {f"{name}.{key}": v for name, p in lora.parts.items() for key, v in p.named_parameters()}
            named = dict(adapter.named_parameters()) | parts
            found.append({name: value.grad for name, value in named.items() if value.grad is not None})
        assert found[0].keys() == found[1].keys() and all(f"{name}.up" in found[0] for name in lora.parts)
        for name, value in found[0].items():
            close(value, found[1][name], 1e-5)


def test_what_a_dit_is_not_trained_with(twins, hosts, data):
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser

    with pytest.raises(UnsupportedModel, match="ControlNet"):
        ComfyDitDenoiser(twins[0], control=object())
    other = SimpleNamespace(model=SimpleNamespace(diffusion_model=twins[0].model.diffusion_model))
    with pytest.raises(UnsupportedModel, match="SimpleNamespace"):  # such as a HunyuanVideo
        text_keys_values(other)
    rows = data.load([0])
    for denoiser in hosts:
        with pytest.raises(FaceCDMError, match="pooled"):
            denoiser.predict(rows.latents, T[:1], Prompt(rows.prompt.states))


def test_core_reads_the_lora_of_either_host(twins, hosts, data):
    import comfy.sd

    rows = data.load([0])
    for denoiser in hosts:
        lora = Lora.new(denoiser.layers(), 2)
        for number, part in enumerate(lora.parts.values()):
            torch.nn.init.normal_(part.up, 0, 0.1, generator=torch.Generator().manual_seed(number))
        patched, _ = comfy.sd.load_lora_for_models(twins[0], None, lora.tensors(), 1.0, 0)
        assert sum(len(entries) for entries in patched.patches.values()) == len(lora.parts)
        length = int(rows.prompt.lengths)
        text = [[rows.prompt.states[:, :length], {"pooled_output": rows.prompt.pooled, "guidance": 1.0}]]
        with lora.on(denoiser.layers()):
            ours = denoiser.predict(rows.latents, T[:1], Prompt(text[0][0], rows.prompt.pooled))
        close(ours, predict(patched, rows.latents, float(denoiser.noise[300]), text), 1e-3)


def test_fp8_weights_stay_as_they_are(in_comfy, data):
    from facecdm.hosts.comfy.training.dit import ComfyDitDenoiser

    model = flux.make_flux(torch.float8_e4m3fn, computed_in=torch.float32)
    before = {name: value.clone() for name, value in model.model.diffusion_model.named_parameters()}
    with ComfyDitDenoiser(model) as denoiser:
        adapter = stir(made(denoiser, data)).requires_grad_(True)
        rows, streams = batch(denoiser, data, adapter, True)
        denoiser.checkpoint(True)
        denoiser.predict(rows.latents, T, rows.prompt, streams).square().mean().backward()
    assert adapter.streams["face"].queries[0].to_q.weight.grad.any()
    for name, value in model.model.diffusion_model.named_parameters():
        assert value.dtype == before[name].dtype and torch.equal(value.float(), before[name].float())


def test_chroma_in_diffusers(data):
    """As it samples, with the same person, and with prompts of two lengths."""
    from diffusers import ChromaTransformer2DModel

    heads = dict(attention_head_dim=24, num_attention_heads=2, joint_attention_dim=CONTEXT, axes_dims_rope=(4, 10, 10))
    small = dict(approximator_num_channels=16, approximator_hidden_dim=32, approximator_layers=1)
    transformer = ChromaTransformer2DModel(num_layers=2, num_single_layers=2, **heads, **small)
    denoiser = DiffusersDitDenoiser(transformer, Shrink(), torch.arange(1, 1001) / 1000)
    adapter = stir(made(denoiser, data)).requires_grad_(True)
    rows, streams = batch(denoiser, data, adapter, True)
    queries = Queries()
    out = denoiser.predict(rows.latents, T, rows.prompt, streams, watch=queries)
    (out.square().mean() + sum(q.square().mean() + k.square().mean() for _, q, k in queries)).backward()
    assert all(part.to_out.weight.grad.any() for part in adapter.streams["face"].queries)
    assert {(q.shape, k.shape) for _, q, k in queries} == {((2, 16, 48), (2, 7, 48))}
    adapter.requires_grad_(False)
    face, vision = data.features([0])
    one = Person(adapter, torch.nn.functional.normalize(face, dim=1), vision)
    prompt, sigma = rows.prompt.part(slice(0, 1)), denoiser.noise[T[:1]]
    host = DiffusersDit(transformer)
    with torch.no_grad(), host.people([Span(one, 0, 1, prompt.states)], sigma, (8, 8)):
        close(denoiser.predict(rows.latents[:1], T[:1], prompt), out[:1], 1e-4)
