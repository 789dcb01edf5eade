"""The triplet attention in a diffusers U-Net: an attention processor around the code that both hosts share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ...adapter.attention import LayerStream, attend, triplet_attention
from ...adapter.location import FaceLocation
from ...adapter.location_finder import LocationFinder, Prediction
from ...adapter.masks import resize_mask
from ...adapter.person import Person, acting, gates_at
from ...adapter.stream_module import CROSS_ATTENTION, parts_of
from ...bases.grid import layer_grid, token_grid
from ...bases.layers import LayerMap
from ...errors import UnsupportedModel
from ...formats.fit import check_fit
from .unet import cross_attentions, layer_map


@dataclass(frozen=True)
class Span:
    """Rows of the batch that one person is applied to.

    person
    start, rows  the batch's rows start … start + rows
    text         the prompt's tokens [1 or rows, T, context]
    negative     whether the rows are of the negative prompt: they get `Person.negative`, and nothing without it
    """

    person: Person
    start: int
    rows: int
    text: Tensor | None = None
    negative: bool = False


@dataclass
class Session:
    """The state that the layers of one base model share while it runs.

    patch  latents along each side of a DiT's image token; 0 for a U-Net
    """

    patch: int = 0
    spans: list[Span] = field(default_factory=list)
    keys_values: list[dict] = field(default_factory=list)
    gates: list[dict] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)  # of the latents, for masks and face locations
    before: Prediction | None = None  # of the step before, for location heads
    locations: dict[int, FaceLocation] = field(default_factory=dict)
    parts: list[dict[str, dict[int, nn.Module]]] = field(default_factory=list)
    masks: dict[tuple[int, int], Tensor] = field(default_factory=dict)  # by span and number of positions

    def clear(self) -> None:
        """Forget the people and what was computed from them."""
        vars(self).update(vars(Session(self.patch)))

    def streams(self, index: int, positions: int) -> list[LayerStream]:
        streams = []
        for number, (span, keys_values, gates) in enumerate(zip(self.spans, self.keys_values, self.gates)):
            for name, layers in keys_values.items():
                if layers[index] is None:
                    continue
                kappa, router = span.person.kappa_of(name), span.person.router_of(name)
                k, v = layers[index]
                streams.append(
                    LayerStream(
                        span.start,
                        span.rows,
                        k,
                        v,
                        gates[name][index],
                        kappa,
                        self._mask(number, positions, gates[name][index]),
                        projection=span.person.settings[name].projection,
                        router=None if router is None else router[index].to(k.device),
                        person=number,
                        location=self._location(number) if name == "face" else None,
                        place=span.person.adapter.streams[name].place,
                        part=self.parts[number][name].get(index),
                    )
                )
        return streams

    def _location(self, number: int) -> FaceLocation | None:
        """The location of a person's face; computed once in a `with` block."""
        person, span = self.spans[number].person, self.spans[number]
        if number not in self.locations and (person.has_location or person.finds_location):
            device = next(iter(self.gates[number].values()))[0].device
            self.locations[number] = (
                FaceLocation(person.keypoints_in(*self.size).to(device), self.size, person.adapter.config.grid_side)
                if person.has_location
                else self._found(span, device)
            )
        return self.locations.get(number)

    def _found(self, span: Span, device: torch.device) -> FaceLocation:
        """The location that the adapter finds in the step before; for a negative prompt's rows, in the prompt's."""
        if span.negative:
            span = next(
                (s for s in self.spans if s.person is span.person and s.rows == span.rows and not s.negative), span
            )
        before = None if self.before is None else self.before.part(slice(span.start, span.start + span.rows))
        return LocationFinder(span.person.adapter, span.person.mask)(before, self.size, device)

    def _mask(self, number: int, positions: int, like: Tensor) -> Tensor | None:
        """The region mask of a span's person at `positions`; computed once in a `with` block."""
        mask, key = self.spans[number].person.mask, (number, positions)
        if mask is not None and key not in self.masks:
            grid = token_grid(*self.size, self.patch) if self.patch else layer_grid(positions, *self.size)
            self.masks[key] = resize_mask(mask, *grid).to(like)
        return self.masks.get(key)


class _Processor:
    """diffusers' plain attention of cross-attention layer `index`, with the triplet before its output projection.

    A trainer passes `people`, the streams of every layer, and `watch` (index, queries, text keys) through diffusers'
    cross_attention_kwargs: gradient checkpointing keeps these for its second forward pass.
    """

    def __init__(self, index: int, session: Session):
        self.index, self.session = index, session

    def __call__(
        self,
        attn,
        hidden_states,
        encoder_hidden_states=None,
        attention_mask=None,
        *args,
        people: list[list[LayerStream]] | None = None,
        watch: Callable[[int, Tensor, Tensor], None] | None = None,
        **kwargs,
    ):
        if attention_mask is not None:
            raise UnsupportedModel(
                "FaceCDM's diffusers host does not support an attention mask over the text; pass None"
            )
        q = attn.to_q(hidden_states)
        k, v = attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states)
        if watch is not None:
            watch(self.index, q, k)
        text = attend(q, k, v, attn.heads)
        streams = people[self.index] if people is not None else self.session.streams(self.index, q.shape[1])
        out = triplet_attention(q, text, streams, attn.heads, attend) if streams else text
        return attn.to_out[1](attn.to_out[0](out))


def _self_attention():
    """diffusers' plain processor, without its warning about the arguments of cross-attention."""
    from diffusers.models.attention_processor import AttnProcessor2_0

    class SelfAttention(AttnProcessor2_0):
        def __call__(self, *args, people=None, watch=None, **kwargs):
            return super().__call__(*args, **kwargs)

    return SelfAttention()


class Host:
    """A base model of diffusers with people in it.

    model      the base model, patched
    layer_map  its layers
    places     where in a layer streams can act, constants of adapter/stream_module.py
    """

    places: tuple[str, ...] = (CROSS_ATTENTION,)

    def __init__(self, model: nn.Module, layer_map: LayerMap, session: Session):
        self.model, self.layer_map, self._session = model, layer_map, session

    @contextmanager
    def people(
        self, spans: list[Span], sigma: Tensor, size: tuple[int, int], before: Prediction | None = None
    ) -> Iterator[nn.Module]:
        """Apply `spans` to the base model in a `with` block.

        sigma   the noise level σ [1]; for a DiT, the time t of its flow
        size    (height, width) of the latents
        before  the prediction of the step before, of the whole batch, from which an adapter with a location head finds
                the faces whose location is not given; without it, these people have no effect

        Keys and values are computed once for all calls in the block, with gradients if these are enabled. A person does
        not act at noise levels outside `sigma_start` and `sigma_end`. Raises Mismatch if an adapter was made for
        another base model, UnsupportedModel if only ComfyUI's host applies it.
        """
        for span in spans:
            check_fit(span.person.adapter, self.layer_map, "the base model")
            self._check_streams(span.person)
        spans = [
            span
            for span, acts in zip(spans, acting([span.person for span in spans], sigma))
            if acts and (span.person.negative or not span.negative)
        ]
        parameter = next(self.model.parameters())
        widths, flow = [layer.width for layer in self.layer_map.layers], self.layer_map.is_dit
        session = self._session
        session.spans, session.size, session.before = spans, size, before
        session.parts = [parts_of(s.person.adapter) for s in spans]
        device, dtype = parameter.device, parameter.dtype
        session.keys_values = [s.person.keys_values(s.text, device, dtype, s.negative) for s in spans]
        session.gates = [
            gates_at(s.person.gates(device), sigma.to(device), widths, dtype, s.person.schedules(device), flow)
            for s in spans
        ]
        try:
            yield self.model
        finally:
            session.clear()

    def _check_streams(self, person: Person) -> None:
        if any(stream.timed or stream.place not in self.places for stream in person.adapter.streams.values()):
            raise UnsupportedModel(
                "FaceCDM applies this adapter in ComfyUI only, since its keys and values depend on the timestep; in "
                "diffusers, use load_ip_adapter, which reads its file"
            )


class DiffusersHost(Host):
    """A diffusers `UNet2DConditionModel` with people in its cross-attention. The constructor patches the U-Net."""

    def __init__(self, unet: nn.Module):
        super().__init__(unet, layer_map(unet), Session())
        self._attentions = cross_attentions(unet)
        for index, module in enumerate(self._attentions):
            module.set_processor(_Processor(index, self._session))
        for name, module in unet.named_modules():
            if name.endswith(".attn1"):
                module.set_processor(_self_attention())

    def text_keys_values(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The base model's own key and value weights for text, in the layer map's order."""
        return ((module.to_k.weight, module.to_v.weight) for module in self._attentions)
