"""One person applied to a MODEL: features, settings, and the keys and values computed from them."""

from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from ..bases.noise import Flow
from ..faces.location import centre_crop
from .features import Features
from .gates import Schedule, knot_weights
from .model import TripletAdapter
from .stream_module import KeysValues


@dataclass(frozen=True, eq=False)
class Stream:
    """The settings of one stream.

    strength    factor on its gates
    curve       a factor for each layer of the map; empty: 1
    kappa       added to the learnt κ
    projection  one of attention.PROJECTIONS
    zeros       number of extra zero tokens, so that a position can attend to none of the stream's own (PuLID)
    schedule    a factor over the noise level
    weights     one for each reference, if references are not averaged
    """

    strength: float = 1.0
    curve: tuple[float, ...] = ()
    kappa: float = 0.0
    projection: str = "feature"
    zeros: int = 0
    schedule: Schedule | None = None
    weights: tuple[float, ...] = ()

    def layer_weights(self, adapter: TripletAdapter) -> Tensor:
        """One factor per head of every layer, [Σ heads]."""
        layers = adapter.config.layer_map.layers
        curve = self.curve or (1.0,) * len(layers)
        return torch.tensor(
            [self.strength * factor for layer, factor in zip(layers, curve) for _ in range(layer.heads)]
        )


@dataclass(frozen=True, eq=False)
class TimedStates:
    """What all steps share of a timed stream.

    states   as StreamModule.timed_states gives them, [references, M, W]
    weights  of the references, [references, 1, 1]; None without weights
    """

    states: Tensor
    weights: Tensor | None


@dataclass(frozen=True, eq=False)
class Person:
    """A person in a MODEL, given by references of the face and optionally of whole images. Immutable; clones share it.

    face           unit embeddings [references, width], or `Features` if the adapter needs more
    image          vision states [references, N, width], or `Features`
    settings       a `Stream` for each active stream
    mask           [H, W] in 0…1, the region mask
    keypoints      [1 or pictures, 5, 2], the location of the face in 0…1 of a canvas; used only by adapters with
                   spatial tokens
    aspects        [1 or pictures], width over height of that canvas; the picture is its centre crop; None: the
                   picture is the whole canvas
    sigma_start    the person acts at noise levels sigma_end ≤ σ ≤ sigma_start
    sigma_end
    evaluate_zero  whether streams whose gate is zero are also computed
    negative       features for the negative prompt's rows, by stream, with the same number of references; without them,
                   the base model's output for these rows is unchanged
    per_picture    whether reference i is for picture i of the batch; else all references act side by side
    """

    adapter: TripletAdapter
    face: Tensor | Features | None
    image: Tensor | Features | None = None
    settings: dict[str, Stream] = field(default_factory=lambda: {"face": Stream(), "image": Stream()})
    mask: Tensor | None = None
    keypoints: Tensor | None = None
    aspects: Tensor | None = None
    sigma_start: float = float("inf")
    sigma_end: float = 0.0
    evaluate_zero: bool = False
    negative: dict[str, Features] = field(default_factory=dict)
    per_picture: bool = False

    def __deepcopy__(self, memo: dict) -> "Person":
        return self  # ComfyUI 0.3 copies a MODEL's options at every clone; weights and features must not be copied

    @property
    def has_window(self) -> bool:
        return self.sigma_start != float("inf") or self.sigma_end > 0

    def acts(self, level: float | None) -> bool:
        """Whether the person acts at noise level σ; `level` is not read without `has_window`, and may be None."""
        return not self.has_window or self.sigma_end <= level <= self.sigma_start

    @property
    def has_location(self) -> bool:
        """Whether the location of the face is given and the adapter uses it."""
        return self.keypoints is not None and getattr(self.adapter.config, "spatial_tokens", False)

    @property
    def finds_location(self) -> bool:
        """Whether the adapter estimates the face's location during sampling, since none is given."""
        has_head = getattr(self.adapter, "location_head", None) is not None
        return self.keypoints is None and has_head and self.adapter.config.spatial_tokens

    def keypoints_in(self, height: int, width: int) -> Tensor:
        """`keypoints` in 0…1 of a picture of height × width, [1 or pictures, 5, 2]."""
        return self.keypoints if self.aspects is None else centre_crop(self.keypoints, self.aspects, height, width)

    def tokens(self, negative: bool = False) -> dict[str, Tensor]:
        """Tokens of the active streams for the rows of the prompt or of the negative prompt, float32.

        [1, references × count, context] side by side, or [references, count, context] with one reference per picture.
        Of a timed stream, the features [references, M, width], from which `timed_states` are made.
        """
        given = self.negative if negative else {"face": self.face, "image": self.image}
        wanted = {
            name: setting
            for name, setting in self.settings.items()
            if name in self.adapter.streams and setting.strength
        }
        if not self.evaluate_zero:
            wanted = {name: setting for name, setting in wanted.items() if not self.adapter.streams[name].gate.is_zero}
        projected = self.adapter.project(*(given.get(name) if name in wanted else None for name in ("face", "image")))
        return {
            name: value if self._is_timed(name) else F.pad(self._arranged(value), (0, 0, 0, wanted[name].zeros))
            for name, value in projected.items()
        }

    def _is_timed(self, name: str) -> bool:
        return self.adapter.streams[name].timed

    def _arranged(self, tokens: Tensor) -> Tensor:
        """Tokens [references, N, C], or [1, references × N, C] if all act side by side."""
        return tokens if self.per_picture else tokens.flatten(0, 1)[None]

    def keys_values(
        self, text: Tensor | None, device: torch.device, dtype: torch.dtype, negative: bool = False
    ) -> dict[str, KeysValues]:
        """Keys and values per stream for one prompt's `text` [1 or B, T, context], on `device` in `dtype`; not those of
        timed streams."""
        made = {}
        for name, tokens in self.tokens_for_text(text, negative).items():
            if not self._is_timed(name):
                layers = self.adapter.streams[name].keys_values(tokens.to(device, dtype))
                layers = self._without_zero_factors(name, layers)
                made[name] = self._weighted(layers, self.token_weights(name, tokens))
        return made

    def timed_states(self, device: torch.device, dtype: torch.dtype, negative: bool = False) -> dict[str, TimedStates]:
        """What all steps share of timed streams, for `timed_keys_values`."""
        made = {}
        for name, value in self.tokens(negative).items():
            if self._is_timed(name):
                states = self.adapter.streams[name].timed_states(value.to(device, dtype))
                weights = self.settings[name].weights
                made[name] = TimedStates(states, states.new_tensor(weights)[:, None, None] if weights else None)
        return made

    def timed_keys_values(self, states: dict[str, TimedStates], timestep: Tensor) -> dict[str, KeysValues]:
        """Keys and values of timed streams at a timestep [1]."""
        made = {}
        for name, shared in states.items():
            layers = self.adapter.streams[name].timed_keys_values(shared.states, timestep)
            layers = self._weighted(self._without_zero_factors(name, layers), shared.weights)
            made[name] = [layer and tuple(self._arranged(x) for x in layer) for layer in layers]
        return made

    def _without_zero_factors(self, name: str, layers: KeysValues) -> KeysValues:
        """Keys and values without the layers whose factor is 0, so that these are not computed.

        They are kept if a router compares the person's streams.
        """
        curve = self.settings[name].curve
        compared = any(self.router_of(other) is not None for other in self.settings if other in self.adapter.streams)
        if not curve or self.evaluate_zero or compared:
            return layers
        return [layer if factor else None for layer, factor in zip(layers, curve)]

    @staticmethod
    def _weighted(layers: KeysValues, weights: Tensor | None) -> KeysValues:
        """Keys and values with the references' weights on the values."""
        if weights is None:
            return layers
        return [layer and (layer[0], layer[1] * weights.to(layer[1])) for layer in layers]

    def tokens_for_text(self, text: Tensor | None, negative: bool = False) -> dict[str, Tensor]:
        """`tokens` after the interplay with one prompt's `text` [1 or B, T, context]."""
        tokens = self.tokens(negative)
        if tokens and text is not None and self.adapter.depends_on_text:
            tokens = self.adapter.apply_interplay(tokens, text[:1].to(next(iter(tokens.values()))))
        return tokens

    def token_weights(self, name: str, tokens: Tensor) -> Tensor | None:
        """The references' weights for each token: [1, N, 1] side by side, or [references, 1, 1] with one reference per
        picture; None without weights.
        """
        setting = self.settings[name]
        if not setting.weights:
            return None
        own = torch.tensor(setting.weights)
        if self.per_picture:
            return own[:, None, None]
        own = own.repeat_interleave((tokens.shape[1] - setting.zeros) // len(setting.weights))
        return F.pad(own, (0, setting.zeros))[None, :, None]

    def gates(self, device: torch.device) -> dict[str, Tensor]:
        """Gate tables by stream, [knots, Σ width] on `device`; [1, Σ width] if all knots are equal and not trained."""
        gates = {}
        for name, setting in self.settings.items():
            if name in self.adapter.streams:
                table = self.adapter.streams[name].gate.table(setting.layer_weights(self.adapter))
                constant = not table.requires_grad and bool((table == table[:1]).all())
                gates[name] = (table[:1] if constant else table).to(device)
        return gates

    def schedules(self, device: torch.device) -> dict[str, Schedule | None]:
        """Each stream's factor over the noise level, on `device`."""
        return {name: setting.schedule and setting.schedule.to(device) for name, setting in self.settings.items()}

    def kappa_of(self, name: str) -> Tensor | None:
        """κ of a stream, the learnt value plus the user's; None if it is zero and not trained."""
        learnt = self.adapter.streams[name].kappa
        if learnt.requires_grad and torch.is_grad_enabled():
            return learnt + self.settings[name].kappa
        total = float(learnt) + self.settings[name].kappa
        return torch.tensor(total) if total else None

    def router_of(self, name: str) -> Tensor | None:
        """The router of a stream, [layers, 4]; None if it is missing, or zero and not trained."""
        learnt = self.adapter.streams[name].router
        if learnt is None or learnt.requires_grad and torch.is_grad_enabled():
            return learnt
        return learnt if learnt.any() else None


def acting(people: list[Person], sigma: Tensor) -> list[bool]:
    """Which people act at noise level σ [1 or B].

    σ is read on the host only if a person's noise levels are limited, and then once.
    """
    level = sigma.max().item() if any(person.has_window for person in people) else None
    return [person.acts(level) for person in people]


def gates_at(
    tables: dict[str, Tensor],
    sigma: Tensor,
    widths: list[int],
    dtype: torch.dtype,
    schedules: dict[str, Schedule | None] | None = None,
    flow: bool = False,
) -> dict[str, list]:
    """Each stream's gates at noise level σ [1], one [width] tensor a layer, from the tables of `Person.gates`.

    `flow` says that σ is the time of a rectified flow.
    """
    gates = {}
    for name, table in tables.items():
        if len(table) > 1:
            level = Flow.ratio(sigma) if flow else sigma
            table = (knot_weights(level, len(table)).T * table).sum(0, keepdim=True)
        if schedules and schedules.get(name) is not None:
            table = table * schedules[name].at(sigma)
        gates[name] = table[0].to(dtype).split(widths)
    return gates
