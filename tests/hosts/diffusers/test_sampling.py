"""The diffusers host applies the settings of a person over the noise level and for the negative prompt as ComfyUI's."""

from dataclasses import replace

import flux
import flux_twins
import pytest
import torch
from tensors import close
from twins import conditioning, new_adapter, predict, stir

from facecdm.adapter.config import AdapterConfig
from facecdm.adapter.gates import Schedule
from facecdm.adapter.location_finder import Prediction
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.person import Person, Stream
from facecdm.hosts.comfy.base_model import layer_map as layer_map_of
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map
from facecdm.hosts.diffusers.dit import DiffusersDit
from facecdm.hosts.diffusers.sampling import DiffusersHost, Span

SIGMA, TIME, SIZE, CFG = 5.0, 0.7, (8, 8), 3.0


class Unet:
    """Both hosts' noise predictions of a U-Net, for equal latents and prompts."""

    sigma = SIGMA

    def __init__(self, twins):
        self.twins, self.model, self.host = twins, twins.model, DiffusersHost(twins.unet)
        torch.manual_seed(3)
        self.x, self.pooled = torch.randn(2, 4, *SIZE) * SIGMA, torch.randn(1, 1280)
        self.texts = [torch.randn(1, 77, twins.context) for _ in range(2)]  # of the prompt and the negative prompt
        self.adapter = stir(new_adapter(layer_map(twins.model)))

    def prompt(self, index: int = 0):
        return conditioning(self.texts[index], self.pooled, height=8 * SIZE[0], width=8 * SIZE[1])

    def diffusers(self, x, text):
        return self.twins.diffusers(x, SIGMA, text, self.pooled)


class Dit:
    """The same of a DiT."""

    sigma = TIME

    def __init__(self):
        self.model, self.transformer = flux_twins.make_twins(40)
        self.host, self.x = DiffusersDit(self.transformer), flux.latents(SIZE, 2)
        self.prompts = flux.prompt(self.model, 1), flux.prompt(self.model, 2)
        self.texts = [prompt[0][0] for prompt in self.prompts]
        torch.manual_seed(1)
        small = dict(face_rank=16, image_width=32, image_tokens=5, image_layers=1, token_width=64, cell_width=128)
        config = AdapterConfig.new(layer_map_of(self.model), **small)
        self.adapter = stir(TripletAdapter(config).requires_grad_(False).eval())

    def prompt(self, index: int = 0):
        return self.prompts[index]

    def diffusers(self, x, text):
        index = next(i for i, own in enumerate(self.texts) if own is text)
        return flux_twins.diffusers_prediction(self.transformer, x, TIME, self.prompts[index])


@pytest.fixture(scope="module", params=["unet", "dit"])
def pair(request, in_comfy):
    return Unet(request.getfixturevalue("sd15")) if request.param == "unet" else Dit()


def person(adapter, seed: int = 5, **more) -> Person:
    generator = torch.Generator().manual_seed(seed)
    face = torch.nn.functional.normalize(torch.randn(1, adapter.config.face_width, generator=generator), dim=1)
    return Person(adapter, face, torch.randn(1, 7, adapter.config.image_width, generator=generator), **more)


def in_diffusers(pair, people: list[Person]):
    spans = [Span(one, 0, 2, pair.texts[0]) for one in people]
    with torch.no_grad(), pair.host.people(spans, torch.tensor([pair.sigma]), SIZE):
        return pair.diffusers(pair.x, pair.texts[0])


def in_comfyui(pair, people: list[Person]):
    model = pair.model
    for one in people:
        model = apply_person(model, one)
    return predict(model, pair.x, pair.sigma, pair.prompt())


def scheduled(high: float, low: float) -> dict[str, Stream]:
    """Streams whose factor is `high` at high noise and `low` at low noise; the host's level is between."""
    schedule = Schedule(torch.tensor([14.0, 0.02]), torch.tensor([high, low]))
    return {name: Stream(schedule=schedule) for name in ("face", "image")}


def test_a_schedule_of_zero_is_the_base_model(pair):
    shown = person(pair.adapter, settings=scheduled(0.0, 0.0))
    plain = in_diffusers(pair, [])
    assert torch.equal(in_diffusers(pair, [shown]), plain)
    assert not torch.equal(in_diffusers(pair, [person(pair.adapter)]), plain)


def test_a_schedule_is_that_of_comfyui(pair):
    """One stream's factor falls and the other's is 1."""
    shown = person(pair.adapter, settings={"face": scheduled(1.5, 0.0)["face"], "image": Stream()})
    ours = in_diffusers(pair, [shown])
    close(in_comfyui(pair, [shown]), ours, 1e-4)
    with pytest.raises(AssertionError):
        close(in_diffusers(pair, [person(pair.adapter)]), ours, 1e-3)


@pytest.mark.parametrize(
    "start, end, acts",
    [
        (0.9, 0.5, False),
        (2.0, 1.1, False),
        (float("inf"), 1.1, False),
        (0.9, 0.0, False),
        (1.1, 0.9, True),
        (1.0, 1.0, True),
    ],
)
def test_a_person_acts_between_its_start_and_end(pair, start, end, acts):
    """Start and end are given as shares of this call's noise level; a second person is not affected."""
    level = torch.tensor([pair.sigma]).item()
    shown, other = person(pair.adapter, sigma_start=start * level, sigma_end=end * level), person(pair.adapter, 6)
    assert torch.equal(in_diffusers(pair, [shown]), in_diffusers(pair, [person(pair.adapter)] if acts else []))
    both = [person(pair.adapter), other] if acts else [other]
    assert torch.equal(in_diffusers(pair, [shown, other]), in_diffusers(pair, both))
    close(in_comfyui(pair, [shown, other]), in_diffusers(pair, [shown, other]), 1e-4)


@pytest.mark.parametrize("given", [True, False], ids=["features", "none"])
def test_rows_of_the_negative_prompt(pair, given):
    other = person(pair.adapter, 7)
    shown = person(pair.adapter, negative={"face": other.face, "image": other.image} if given else {})
    text, negative = pair.texts
    level = torch.tensor([pair.sigma])
    rows = []
    for own, is_negative in ((text, False), (negative, True)):
        with torch.no_grad(), pair.host.people([Span(shown, 0, 2, own, is_negative)], level, SIZE):
            rows.append(pair.diffusers(pair.x, own))
    with torch.no_grad(), pair.host.people([], level, SIZE):
        plain = pair.diffusers(pair.x, negative)
    assert torch.equal(rows[1], plain) is not given
    ours = rows[1] + CFG * (rows[0] - rows[1])
    comfy = predict(apply_person(pair.model, shown), pair.x, pair.sigma, pair.prompt(), pair.prompt(1), cfg=CFG)
    close(comfy, ours, 1e-4)


def test_both_prompts_in_one_call(sd15):
    """A batch of both prompts' rows gives what separate calls give."""
    pair = Unet(sd15)
    other = person(pair.adapter, 7)
    shown = person(pair.adapter, negative={"face": other.face, "image": other.image})
    level, (text, negative) = torch.tensor([SIGMA]), pair.texts
    spans = [Span(shown, 0, 2, negative, True), Span(shown, 2, 2, text)]
    both = torch.cat([negative.expand(2, -1, -1), text.expand(2, -1, -1)])
    with torch.no_grad(), pair.host.people(spans, level, SIZE):
        t = sd15.model.model.model_sampling.timestep(level)
        out = sd15.unet(pair.x.repeat(2, 1, 1, 1) / (SIGMA**2 + 1) ** 0.5, t, both).sample
    for start, span in ((0, spans[0]), (2, spans[1])):
        with torch.no_grad(), pair.host.people([replace(span, start=0)], level, SIZE):
            close(out[start : start + 2], pair.diffusers(pair.x, span.text), 1e-5)


def test_the_negative_rows_have_the_location_found_in_the_prompts(sd15):
    adapter = stir(new_adapter(layer_map(sd15.model), spatial_tokens=True, face_tokens=4, location_channels=4))
    adapter.location_head.heat.weight.mul_(100)
    adapter.location_head.spread.bias.fill_(-6.0)
    shown = person(adapter, negative={"face": person(adapter, 7).face})
    host, level, text = DiffusersHost(sd15.unet), torch.tensor([SIGMA]), torch.randn(1, 77, sd15.context)
    spans = [Span(shown, 0, 1, text, True), Span(shown, 1, 1, text)]
    with host.people(spans, level, SIZE, Prediction(torch.randn(2, 4, *SIZE), level)):
        negative, positive = (host._session._location(number) for number in (0, 1))
        assert torch.equal(negative.keypoints, positive.keypoints)
