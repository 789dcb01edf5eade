"""One sampling with people: what is made once, what is made once a step, and what a layer finds ready."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import groupby
from uuid import uuid4

import torch
from torch import Tensor

from ....adapter.attention import LayerStream, LocationBias
from ....adapter.location import FaceLocation, FaceLocations
from ....adapter.model import KeysValues
from ....adapter.person import Person, gates_at, resize_mask

PEOPLE = "facecdm_people"  # in a model's transformer_options: a tuple of Person
RUN = "facecdm_run"  # there, too, while sampling: the Run
PICTURES = "facecdm_pictures"  # there, too: which pictures of the batch are sampled, where it is not all of them


def sample_with_run(executor: Callable, *args, **kwargs):
    """OUTER_SAMPLE wrapper: a Run that lives as long as the sampling."""
    guider = executor.class_obj
    options = guider.model_options["transformer_options"]
    options[RUN] = Run(options[PEOPLE], guider)
    try:
        return executor(*args, **kwargs)
    finally:
        options.pop(RUN, None)


def prepare_step(executor: Callable, model, conds, x_in, timestep, model_options, *args, **kwargs):
    """CALC_COND_BATCH wrapper: makes keys and values for prompts not seen yet, and this step's gates."""
    options = model_options["transformer_options"]
    run = options.get(RUN)
    if run is None:  # a sampler that does not come through OUTER_SAMPLE
        run = Run(options[PEOPLE])
        model_options = {**model_options, "transformer_options": {**options, RUN: run}}
    run.step(model, conds, timestep, tuple(x_in.shape[-2:]))
    return executor(model, conds, x_in, timestep, model_options, *args, **kwargs)


def run_of(extra_options: dict) -> "Run | None":
    return extra_options.get(RUN)


@dataclass(frozen=True, eq=False)
class _Shown:
    """A person on this run's device: gate tables, κ, routers, and keys and values by conditioning.

    `shared` holds those that serve every prompt (False) and every negative one (True).
    """

    person: Person
    tables: dict[str, Tensor]
    kappas: dict[str, Tensor | None]
    routers: dict[str, Tensor | None]
    schedules: dict
    by_cond: dict[object, dict[str, KeysValues]] = field(default_factory=dict)
    shared: dict[bool, dict[str, KeysValues]] = field(default_factory=dict)


class Run:
    """People in one sampling. A layer asks `streams`; everything that it gets was made before."""

    def __init__(self, people: tuple[Person, ...], guider=None):
        self._people, self._guider = people, guider
        self._shown: list[_Shown] = []
        self._gates: list[dict | None] = []  # this step's, by person; None while they do not act
        self._areas: dict[object, tuple[int, int, int, int]] = {}  # of conditionings that see a part of the picture
        self._size: tuple[int, int] = (0, 0)  # of the whole picture's latents
        self._masks: dict[tuple, Tensor] = {}
        self._where: dict[tuple, LocationBias] = {}
        self._ready: dict[tuple, list[LayerStream]] = {}
        self._joined: dict[tuple, tuple[Tensor, Tensor]] = {}  # keys and values of neighbouring chunks of a batch

    def __deepcopy__(self, memo: dict) -> "Run":
        return self

    def step(self, model, conds: list, sigma: Tensor, size: tuple[int, int]) -> None:
        """Before the U-Net is called: σ [B] on its device, `conds` as CALC_COND_BATCH has them, latents' size."""
        device, dtype = sigma.device, model.manual_cast_dtype or model.get_dtype()
        if not self._shown:
            self._shown = [_shown(person, device) for person in self._people]
        self._size = size
        conditional = self._conditional(conds)
        _tell_apart(conditional, conds)
        mine = {id(cond) for cond in conditional}
        for cond in (cond for group in conds for cond in group or ()):
            self._prepare(cond, device, dtype, id(cond) not in mine)
        # One look at σ on the host where someone's time is limited; else none.
        level = sigma.max().item() if any(p.has_window for p in self._people) else None
        widths = [layer.width for layer in self._people[0].adapter.config.layer_map.layers]
        self._gates = [
            gates_at(s.tables, sigma[:1], widths, dtype, s.schedules) if _acts(s.person, level) else None
            for s in self._shown
        ]
        self._ready.clear()

    def _conditional(self, conds: list) -> list[dict]:
        """The conditionings that show people: all but the negative ones, which see at most a person's negative."""
        named = getattr(self._guider, "conds", {})
        negative = {id(named[name]) for name in named if "negative" in name or "empty" in name}
        if not negative & {id(group) for group in conds}:
            negative = {id(group) for group in conds[1:2]} if len(conds) == 2 else set()
        return [cond for group in conds if group is not None and id(group) not in negative for cond in group]

    def _prepare(self, cond: dict, device: torch.device, dtype: torch.dtype, negative: bool) -> None:
        if cond.get("area"):
            self._areas[cond["uuid"]] = tuple(int(value) for value in cond["area"])
        for shown in self._shown:
            uuid, person = cond["uuid"], shown.person
            if uuid in shown.by_cond or negative and not person.negative:
                continue
            if person.adapter.depends_on_text:
                text = cond["model_conds"]["c_crossattn"].cond
                shown.by_cond[uuid] = person.keys_values(text, device, dtype, negative)
            else:  # the same for every prompt
                if negative not in shown.shared:
                    shown.shared[negative] = person.keys_values(None, device, dtype, negative)
                shown.by_cond[uuid] = shown.shared[negative]

    def streams(self, index: int, q: Tensor, extra_options: dict) -> list[LayerStream]:
        """What layer `index` listens to, for its queries q [B, n, C]."""
        uuids = extra_options.get("uuids") or []
        if not uuids or len(q) % len(uuids):
            return []
        rows = len(q) // len(uuids)
        size = tuple(extra_options["activations_shape"][-2:])
        places = sampled_images(extra_options)
        key = (index, size, rows, places, *uuids)
        if key not in self._ready:
            self._ready[key] = [
                stream
                for number in range(len(self._shown))
                for stream in self._streams_of(number, index, uuids, rows, size, places)
            ]
        return self._ready[key]

    def _streams_of(
        self, number: int, index: int, uuids: list, rows: int, size: tuple, places: tuple[int, ...] | None
    ) -> list[LayerStream]:
        shown, gates = self._shown[number], self._gates[number]
        if gates is None:
            return []
        streams = []
        for name in gates:
            for start, count, chunks in _spans([shown.by_cond.get(uuid, {}).get(name) for uuid in uuids], index):
                covered = tuple(uuids[start : start + count])
                key = (number, name, index, rows, places, *covered)
                if key not in self._joined:
                    self._joined[key] = tuple(_rows([chunk[part] for chunk in chunks], rows, places) for part in (0, 1))
                k, v = self._joined[key]
                router = shown.routers[name]
                streams.append(
                    LayerStream(
                        start * rows,
                        count * rows,
                        k,
                        v,
                        gates[name][index],
                        shown.kappas[name],
                        self._mask(number, covered, rows, size, k),
                        projection=shown.person.settings[name].projection,
                        router=None if router is None else router[index],
                        person=number,
                        where=self._where_of(number, covered, rows, size, places, k)
                        if name == "face" and shown.person.has_location
                        else None,
                    )
                )
        return streams

    def _where_of(
        self, number: int, uuids: tuple, rows: int, size: tuple[int, int], places: tuple[int, ...] | None, like: Tensor
    ) -> LocationBias:
        """Where a person's face is to be, for neighbouring chunks of the batch."""
        person = self._shown[number].person
        areas = tuple(self._areas.get(uuid) for uuid in uuids)
        key = (number, areas, rows, size, places, self._size)
        if key not in self._where:
            points = person.keypoints_in(*self._size).to(like.device)
            whole = FaceLocation(points, self._size, person.adapter.config.grid_side, size)
            seen = [whole if area is None else whole.within(area) for area in areas]
            self._where[key] = (
                seen[0]
                if len(whole.keypoints) == 1 and len(set(areas)) == 1
                else FaceLocations(
                    [replace(one, keypoints=rows_for_images(one.keypoints, rows, places)) for one in seen]
                )
            )
        return self._where[key]

    def _mask(self, number: int, uuids: tuple, rows: int, size: tuple[int, int], like: Tensor) -> Tensor | None:
        """A person's mask for neighbouring chunks of the batch: [1 or chunks × rows, places, 1]."""
        if self._shown[number].person.mask is None:
            return None
        return _rows([self._mask_of(number, self._areas.get(uuid), size, like) for uuid in uuids], rows)

    def _mask_of(self, number: int, area: tuple[int, int, int, int] | None, size: tuple[int, int], like: Tensor):
        """[1, places, 1]: what a conditioning sees of the mask that covers the whole picture."""
        key = (number, area, size)
        if key not in self._masks:
            mask = self._shown[number].person.mask
            if area is not None:
                height, width, y, x = area
                whole = resize_mask(mask, *self._size).reshape(self._size)
                mask = whole[y : y + height, x : x + width]
            self._masks[key] = resize_mask(mask, *size).to(like)
        return self._masks[key]


def _shown(person: Person, device: torch.device) -> _Shown:
    tables = person.gates(device)
    routers = {name: person.router_of(name) for name in tables}
    return _Shown(
        person,
        tables,
        {name: person.kappa_of(name) for name in tables},
        {name: router if router is None else router.to(device) for name, router in routers.items()},
        person.schedules(device),
    )


def _tell_apart(conditional: list[dict], conds: list) -> None:
    """Core gives a negative conditioning for every area of a positive one, and that one's uuid with it."""
    mine = {id(cond) for cond in conditional}
    taken = {cond["uuid"] for cond in conditional}
    for cond in (cond for group in conds for cond in group or () if id(cond) not in mine):
        if cond["uuid"] in taken:
            cond["uuid"] = uuid4()


def _acts(person: Person, level: float | None) -> bool:
    return not person.has_window or person.sigma_end <= level <= person.sigma_start


def _spans(layers: list[KeysValues | None], index: int) -> Iterator[tuple[int, int, list[tuple[Tensor, Tensor]]]]:
    """Neighbouring chunks of the batch that see a stream, as many tokens each: (first, how many, keys and values)."""
    start = 0
    for present, group in groupby(layers, lambda chunk: chunk[index][0].shape[1] if chunk else 0):
        chunks = list(group)
        if present:
            yield start, len(chunks), [chunk[index] for chunk in chunks]
        start += len(chunks)


def _rows(chunks: list[Tensor], rows: int, places: tuple[int, ...] | None = None) -> Tensor:
    """What neighbouring chunks see [1 or pictures, N, C], for their rows: one for all where they are the same."""
    if len(chunks[0]) == 1 and all(chunk is chunks[0] for chunk in chunks):
        return chunks[0]
    return torch.cat([rows_for_images(chunk, rows, places) for chunk in chunks])


def rows_for_images(chunk: Tensor, rows: int, places: tuple[int, ...] | None) -> Tensor:
    """Row i sees the i-th of `chunk`, or the last one where there are fewer; all see the only one."""
    if len(chunk) == 1:
        return chunk.expand(rows, -1, -1)
    wanted = places if places is not None and len(places) == rows else range(rows)
    return chunk[[min(place, len(chunk) - 1) for place in wanted]]


def sampled_images(extra_options: dict) -> tuple[int, ...] | None:
    """Which pictures of the batch are seen now, where it is sampled part by part (Detail Faces, core's context windows,
    AnimateDiff).
    """
    if PICTURES in extra_options:
        return extra_options[PICTURES]
    window = getattr(extra_options.get("context_window"), "index_list", None)
    if window is None:
        window = (extra_options.get("ad_params") or {}).get("sub_idxs")
    return None if window is None else tuple(window)
