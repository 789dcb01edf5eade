"""The state of one sampling with people: values computed once, and values computed once per step."""

from dataclasses import dataclass, field, replace
from uuid import uuid4

import torch
from torch import Tensor, nn

from ....adapter.attention import LayerStream, LocationBias
from ....adapter.gates import Schedule
from ....adapter.location import FaceLocation, FaceLocations
from ....adapter.location_finder import LocationFinder, Prediction
from ....adapter.masks import resize_mask
from ....adapter.person import Person, TimedStates, acting, gates_at
from ....adapter.stream_module import KeysValues, parts_of
from ....bases.layers import LayerMap
from ....bases.noise import Flow
from .. import running_node
from ..latents import without_frames
from .chunks import UNKNOWN_IMAGES, join_chunks, rows_for_images, sampled_images, spans
from .tiles import TILES, UNKNOWN, Area, find_tiles, within
from .times import ScheduledPerson

PEOPLE = "facecdm_people"  # in a model's transformer_options: a tuple of Person
RUN = "facecdm_run"  # in the same options while sampling: the Run
ROWS = "facecdm_rows"  # in the transformer_options of a call: how many rows its batch has

REPEATED_ROWS = (
    "another pack (such as Attention Couple) changes the number of rows in the model's attention, so FaceCDM cannot "
    "tell which prompt a row belongs to: people may be missing or in the wrong regions. Remove that pack's node, and "
    "give each person a mask instead (Apply FaceCDM's mask, or Apply FaceCDM to People)."
)

Chunk = tuple[object, Area | None]  # uuid of a conditioning, and the tile of its latents


def run_of(extra_options: dict) -> "Run | None":
    return extra_options.get(RUN)


@dataclass(frozen=True, eq=False)
class _Settings:
    """A person's settings on one device.

    tables     gate tables by stream
    kappas     κ by stream, or None
    routers    routers by stream, or None
    schedules  factors over the noise level by stream, or None
    """

    tables: dict[str, Tensor]
    kappas: dict[str, Tensor | None]
    routers: dict[str, Tensor | None]
    schedules: dict[str, Schedule | None]

    @classmethod
    def of(cls, person: Person, device: torch.device) -> "_Settings":
        tables = person.gates(device)

        def moved(value: Tensor | None) -> Tensor | None:
            return None if value is None else value.to(device)

        return cls(
            tables,
            {name: moved(person.kappa_of(name)) for name in tables},
            {name: moved(person.router_of(name)) for name in tables},
            person.schedules(device),
        )


@dataclass(frozen=True, eq=False)
class _Shown:
    """A person, and keys and values on the sampling's main device.

    parts    what runs in a layer at every step, by stream and index of the layer
    by_cond  keys and values by a conditioning's uuid
    shared   keys and values for every prompt (False) and every negative prompt (True)
    states   what all steps share of timed streams, in the same way; every step puts keys and values into `shared`
    """

    person: Person
    parts: dict[str, dict[int, nn.Module]]
    by_cond: dict[object, dict[str, KeysValues]] = field(default_factory=dict)
    shared: dict[bool, dict[str, KeysValues]] = field(default_factory=dict)
    states: dict[bool, dict[str, TimedStates]] = field(default_factory=dict)


class Run:
    """The people of one sampling. A layer gets its streams from `streams`; keys and values are computed earlier.

    Newer ComfyUI splits the conditionings of a step over several GPUs, in threads with the same options. Settings,
    gates, keys and values are therefore kept per device.
    """

    def __init__(self, people: tuple[Person, ...], guider=None):
        self._shown, self._guider = [_Shown(person, parts_of(person.adapter)) for person in people], guider
        self._settings: dict[torch.device, list[_Settings]] = {}
        self._gates: dict[torch.device, list[dict]] = {}  # this step's, by person
        self._model_sampling = None  # the noise schedule that people's times were converted with
        self._acting: list[bool] = []  # which people act at this step's noise level
        self._sigma = self._dtype = self._latents = None  # of this step
        self._again = False  # whether this is a further call in the same step, of a guidance such as PAG or SAG
        self._areas: dict[object, Area] = {}  # areas of conditionings for a part of the picture
        self.size: tuple[int, int] = (0, 0)  # size of the whole picture's latents
        self._warnings: set[str] = set()
        self._masks: dict[tuple, Tensor] = {}
        self._locations: dict[tuple, LocationBias] = {}
        self._ready: dict[tuple, list[LayerStream]] = {}
        self._joined: dict[tuple, tuple[Tensor, Tensor]] = {}  # keys and values of neighbouring chunks of a batch
        self._predicted: dict[tuple[int, ...] | None, Prediction] = {}  # of the previous step, by sampled images
        self._finders = {
            number: LocationFinder(person.adapter, person.mask)
            for number, person in enumerate(people)
            if person.finds_location
        }
        self._found: dict[int, FaceLocation] = {}  # by person

    def __deepcopy__(self, memo: dict) -> "Run":
        return self

    @property
    def layer_map(self) -> LayerMap:
        return self._shown[0].person.adapter.config.layer_map

    def step(self, model, conds: list, sigma: Tensor, latents: Tensor, images: tuple[int, ...] | None = None) -> None:
        """Prepare a step before the U-Net call: σ [B] on its device, `conds` and `latents` of CALC_COND_BATCH, and
        which images of the batch are sampled (None: all)."""
        self._again = latents is self._latents and sigma is self._sigma
        self._sigma, self._dtype = sigma, model.manual_cast_dtype or model.get_dtype()
        self._latents, self.size = latents, tuple(latents.shape[-2:])
        self._convert_times(model.model_sampling)
        conditional = self._conditional(conds)
        _make_uuids_unique(conditional, conds)
        positive = {id(cond) for cond in conditional}
        for cond in (cond for group in conds for cond in group or ()):
            self._prepare(cond, sigma.device, id(cond) not in positive)
        self._acting = acting([shown.person for shown in self._shown], sigma)
        self._renew_timed(model, sigma[:1])
        self._gates.clear()
        self._ready.clear()
        self._gates_on(sigma.device)
        self._find_locations(latents, images)

    def _convert_times(self, model_sampling) -> None:
        """Convert people's times to noise levels, in the first step and if the noise schedule changes later."""
        if model_sampling is self._model_sampling:
            return
        self._model_sampling = model_sampling
        self._shown = [
            replace(shown, person=shown.person.in_sampling(model_sampling))
            if isinstance(shown.person, ScheduledPerson)
            else shown
            for shown in self._shown
        ]
        self._settings.clear()

    def keep_prediction(
        self, conds: list, predicted: list[Tensor], sigma: Tensor, images: tuple[int, ...] | None
    ) -> None:
        """Keep the U-Net's clean latents for the prompt after its call, for the location heads of the next step.

        Those of a step's first call: a guidance's further calls are made worse on purpose.
        """
        if not self._finders or self._again:
            return
        positive = {id(cond) for cond in self._conditional(conds)}
        for group, clean in zip(conds, predicted):
            if any(id(cond) in positive for cond in group or ()):
                clean = without_frames(clean)
                self._predicted[images] = Prediction(clean, Flow.ratio(sigma) if self.layer_map.is_dit else sigma)
                return

    def _find_locations(self, latents: Tensor, images: tuple[int, ...] | None) -> None:
        """Estimate this step's face locations of the people whose location is not given, at its first call."""
        if not self._finders or self._again:
            return
        before = self._predicted.get(images)
        if before is not None and before.clean.shape != without_frames(latents).shape:
            before = None
        for number, find in self._finders.items():
            found = find(before, self.size, latents.device)
            if found is not self._found.get(number):
                self._found[number] = found
                self._locations = {key: value for key, value in self._locations.items() if key[0] != number}

    def _conditional(self, conds: list) -> list[dict]:
        """The conditionings that show people: all but the negative ones, which get at most `Person.negative`."""
        named = getattr(self._guider, "conds", {})
        negative = {id(named[name]) for name in named if "negative" in name or "empty" in name}
        if not negative & {id(group) for group in conds}:
            negative = {id(group) for group in conds[1:2]} if len(conds) == 2 else set()
        return [cond for group in conds if group is not None and id(group) not in negative for cond in group]

    def _prepare(self, cond: dict, device: torch.device, negative: bool) -> None:
        uuid = cond["uuid"]
        if cond.get("area"):
            height, width, top, left = (int(value) for value in cond["area"])
            self._areas[uuid] = (min(height, self.size[0] - top), min(width, self.size[1] - left), top, left)
        for shown in self._shown:
            person = shown.person
            if uuid in shown.by_cond or negative and not person.negative:
                continue
            if person.adapter.depends_on_text:
                text = cond["model_conds"]["c_crossattn"].cond
                shown.by_cond[uuid] = person.keys_values(text, device, self._dtype, negative)
            else:  # the same for every prompt
                if negative not in shown.shared:
                    shown.shared[negative] = person.keys_values(None, device, self._dtype, negative)
                    shown.states[negative] = person.timed_states(device, self._dtype, negative)
                shown.by_cond[uuid] = shown.shared[negative]

    def _renew_timed(self, model, sigma: Tensor) -> None:
        """Compute the keys and values of timed streams at this step's noise level."""
        timed = {
            (number, name)
            for number, shown in enumerate(self._shown)
            for states in shown.states.values()
            for name in states
        }
        if not timed:
            return
        self._joined = {key: value for key, value in self._joined.items() if key[:2] not in timed}
        timestep = model.model_sampling.timestep(sigma)
        for shown, acts in zip(self._shown, self._acting):
            for negative, states in shown.states.items() if acts else ():
                shown.shared[negative].update(shown.person.timed_keys_values(states, timestep))

    def _settings_on(self, device: torch.device) -> list[_Settings]:
        if device not in self._settings:
            self._settings[device] = [_Settings.of(shown.person, device) for shown in self._shown]
        return self._settings[device]

    def _gates_on(self, device: torch.device) -> list[dict]:
        """Each person's gates at this step's noise level; {} while the person does not act."""
        if device not in self._gates:
            widths, flow = [layer.width for layer in self.layer_map.layers], self.layer_map.is_dit
            self._gates[device] = [
                gates_at(own.tables, self._sigma[:1].to(device), widths, self._dtype, own.schedules, flow)
                if acts
                else {}
                for own, acts in zip(self._settings_on(device), self._acting)
            ]
        return self._gates[device]

    def tiles(self, x: Tensor, uuids: tuple) -> tuple[Area | None, ...] | None:
        """The tiles in a batch for the U-Net; None if it holds the whole picture or conditionings' areas of it."""
        if not uuids or self._latents is None:
            return None
        area = self._areas.get(uuids[0])
        whole = self._latents
        if area is not None:
            height, width, top, left = area
            whole = whole[..., top : top + height, left : left + width]
        located = any(
            person.mask is not None or person.has_location or person.finds_location
            for person in (shown.person for shown in self._shown)
        )
        tiles = find_tiles(x, whole, len(uuids), located)
        if tiles is not None and located and None in tiles:
            self.warn(UNKNOWN)
        return tiles

    def warn(self, message: str) -> None:
        """Warn on the node that samples, once."""
        if message not in self._warnings:
            self._warnings.add(message)
            running_node.warn([message])

    def streams(
        self, index: int, batch: int, size: tuple[int, int], device: torch.device, options: dict
    ) -> list[LayerStream]:
        """The streams of layer `index`, whose positions form a grid of `size`; `options` are transformer_options."""
        uuids = tuple(options.get("uuids") or ())
        tiles = options.get(TILES, (None,))
        chunks = [(uuid, tile) for tile in tiles for uuid in uuids]
        if not chunks:
            return []
        rows, rest = divmod(batch, len(chunks))
        if rest or len(chunks) > 1 and batch != options.get(ROWS, batch):
            self.warn(REPEATED_ROWS)
        if rest:
            return []
        images = sampled_images(options)
        key = (index, size, rows, images, device, *chunks)
        if key not in self._ready:
            self._ready[key] = [
                stream
                for number in range(len(self._shown))
                for stream in self._streams_of(number, index, chunks, rows, size, images, device)
            ]
        return self._ready[key]

    def _streams_of(
        self,
        number: int,
        index: int,
        chunks: list[Chunk],
        rows: int,
        size: tuple[int, int],
        images: tuple[int, ...] | None,
        device: torch.device,
    ) -> list[LayerStream]:
        shown, settings, gates = (
            self._shown[number],
            self._settings_on(device)[number],
            self._gates_on(device)[number],
        )
        streams = []
        for name in gates:
            own = [shown.by_cond.get(uuid, {}).get(name) for uuid, _ in chunks]
            for start, count, keys_values in spans(own, index):
                covered = tuple(chunks[start : start + count])
                key = (number, name, index, rows, device, *(uuid for uuid, _ in covered))
                k, v = self._join(key, keys_values, rows, images, device)
                router = settings.routers[name]
                streams.append(
                    LayerStream(
                        start * rows,
                        count * rows,
                        k,
                        v,
                        gates[name][index],
                        settings.kappas[name],
                        self._mask(number, covered, rows, size, k),
                        projection=shown.person.settings[name].projection,
                        router=None if router is None else router[index],
                        person=number,
                        location=self._location(number, covered, rows, size, images, device)
                        if name == "face" and (shown.person.has_location or shown.person.finds_location)
                        else None,
                        place=shown.person.adapter.streams[name].place,
                        part=shown.parts[name].get(index),
                    )
                )
        return streams

    def _join(
        self,
        key: tuple,
        keys_values: list[tuple[Tensor, Tensor]],
        rows: int,
        images: tuple[int, ...] | None,
        device: torch.device,
    ) -> tuple[Tensor, Tensor]:
        """The keys and values of neighbouring chunks for all their rows.

        They are kept for the sampling unless they differ with the sampled images: the number of different context
        windows is large.
        """
        differ = images is not None and any(len(chunk[0]) > 1 for chunk in keys_values)
        if differ:
            self._check_images(rows, images)
        elif key in self._joined:
            return self._joined[key]
        k, v = (join_chunks([chunk[part] for chunk in keys_values], rows, images).to(device) for part in (0, 1))
        if not differ:
            self._joined[key] = k, v
        return k, v

    def _check_images(self, rows: int, images: tuple[int, ...] | None) -> None:
        """Warn if it is unknown which of several references or poses the rows of a chunk belong to."""
        if images is not None and len(images) != rows:
            self.warn(UNKNOWN_IMAGES)

    def _parts(self, chunks: tuple[Chunk, ...]) -> list[Area | None]:
        """The part of the picture that each chunk computes; None: all of it."""
        return [within(tile, self._areas.get(uuid)) for uuid, tile in chunks]

    def _location(
        self,
        number: int,
        chunks: tuple[Chunk, ...],
        rows: int,
        size: tuple[int, int],
        images: tuple[int, ...] | None,
        device: torch.device,
    ) -> LocationBias:
        """The location of a person's face, for neighbouring chunks of the batch."""
        person, parts = self._shown[number].person, self._parts(chunks)
        key = (number, rows, size, images, self.size, device, *parts)
        if key not in self._locations:
            if number in self._found:
                images = None  # the estimates are of the sampled images only
                whole = self._found[number].on(device, size)
            else:
                points = person.keypoints_in(*self.size).to(device)
                whole = FaceLocation(points, self.size, person.adapter.config.grid_side, size)
                if len(points) > 1:
                    self._check_images(rows, images)
            cut = [whole if part is None else whole.within(part) for part in parts]
            self._locations[key] = (
                cut[0]
                if len(whole.keypoints) == 1 and len(set(parts)) == 1
                else FaceLocations([_for_images(one, rows, images) for one in cut])
            )
        return self._locations[key]

    def _mask(
        self, number: int, chunks: tuple[Chunk, ...], rows: int, size: tuple[int, int], like: Tensor
    ) -> Tensor | None:
        """A person's mask [1 or chunks × rows, positions, 1] for chunks of the batch that follow one another."""
        if self._shown[number].person.mask is None:
            return None
        return join_chunks([self._mask_of(number, part, size, like) for part in self._parts(chunks)], rows)

    def _mask_of(self, number: int, part: Area | None, size: tuple[int, int], like: Tensor) -> Tensor:
        """[1, positions, 1]: the part of the picture's mask that a conditioning or a tile covers."""
        key = (number, part, size, self.size, like.device)
        if key not in self._masks:
            mask = self._shown[number].person.mask
            if part is not None:
                height, width, top, left = part
                whole = resize_mask(mask, *self.size).reshape(self.size)
                mask = whole[top : top + height, left : left + width]
            self._masks[key] = resize_mask(mask, *size).to(like)
        return self._masks[key]


def _for_images(location: FaceLocation, rows: int, images: tuple[int, ...] | None) -> FaceLocation:
    """Select the sampled images' rows of a location with a single row or one row per image.

    Fewer poses than images are repeated in turn, as ComfyUI repeats a ControlNet's pictures.
    """
    trust = location.trust
    if trust is not None:
        trust = rows_for_images(trust.view(-1, 1, 1), rows, images, cyclic=True).flatten()
    return replace(location, keypoints=rows_for_images(location.keypoints, rows, images, cyclic=True), trust=trust)


def _make_uuids_unique(conditional: list[dict], conds: list) -> None:
    """Give negative conditionings their own uuids: core makes one per positive area, with the positive one's uuid."""
    positive = {id(cond) for cond in conditional}
    taken = {cond["uuid"] for cond in conditional}
    for cond in (cond for group in conds for cond in group or () if id(cond) not in positive):
        if cond["uuid"] in taken:
            cond["uuid"] = uuid4()
