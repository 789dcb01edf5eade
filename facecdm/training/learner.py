"""The trained parameters of one stage, their learning rates and moving average, and the result."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..adapter.model import TripletAdapter
from ..tensor_file import check_weights
from .initialise import init_streams
from .lora import Lora, LowRank
from .stages import Stage


class Learner:
    """An adapter and LoRAs in training; the given ones are not changed.

    adapter  the given adapter's frozen weights, and float32 copies of the trained ones
    extra    low-rank additions to the adapter's keys and values, by layer
    lora     the U-Net's LoRA; a new one is made for the `layers`
    control  the ControlNet's LoRA, made in the same way
    named    the trained parameters, by name
    average  their moving averages, by name; empty without averaging
    """

    def __init__(
        self,
        adapter: TripletAdapter,
        lora: Lora,
        layers: Mapping[str, nn.Linear | nn.Conv2d],
        stage: Stage,
        device: torch.device,
        control: Lora | None = None,
        control_layers: Mapping[str, nn.Linear | nn.Conv2d] | None = None,
    ):
        torch.random.default_generator.manual_seed(stage.seed)
        self.stage = stage
        trained = set(stage.train)
        low_rank = stage.rank and any(stream.low_rank_layers() for stream in adapter.streams.values())
        self.adapter = _fork(adapter, trained - {"keys_values"} if low_rank else trained).to(device)
        if "keys_values" in trained and not low_rank and adapter.is_new:
            init_streams(self.adapter)
        self.extra: dict[nn.Linear, LowRank] = {}
        if "keys_values" in trained and low_rank:
            self.extra = {
                linear: LowRank(linear.in_features, linear.out_features, stage.rank).to(device)
                for linear in _low_rank_layers(self.adapter)
            }
        self.lora = _trainable(lora, layers, stage, "lora" in trained, device)
        self.control = _trainable(control or Lora(), control_layers or {}, stage, "control" in trained, device)
        self.named = dict(self._named(trained))
        for value in self.named.values():
            value.requires_grad_(True)
        self.average = {name: value.detach().clone() for name, value in self.named.items()} if stage.ema else {}

    def _named(self, trained: set[str]):
        for name, value in self.adapter.named_parameters():
            if group_of(name) in trained and not (group_of(name) == "keys_values" and self.extra):
                yield f"adapter.{name}", value
        for number, part in enumerate(self.extra.values()):
            yield from ((f"extra.{number}.{name}", value) for name, value in part.named_parameters())
        for group, lora in (("lora", self.lora), ("control", self.control)):
            for layer, part in lora.parts.items() if group in trained else ():
                yield from ((f"{group}.{layer}.{name}", value) for name, value in part.named_parameters())

    def groups(self) -> list[dict]:
        """Parameter groups for an optimiser: gates and κ have a higher learning rate and no weight decay."""
        stage, fast = self.stage, ("gates", "kappa")
        quick = [value for name, value in self.named.items() if group_of(name.removeprefix("adapter.")) in fast]
        chosen = {id(value) for value in quick}
        slow = [value for value in self.named.values() if id(value) not in chosen]
        groups = [
            {"params": slow, "factor": 1.0, "weight_decay": stage.weight_decay},
            {"params": quick, "factor": stage.gate_rate, "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Update the average after `step` steps; its decay grows to the stage's `ema`."""
        if self.average:
            decay = min(self.stage.ema, (1 + step) / (10 + step))
            torch._foreach_lerp_(
                list(self.average.values()), [value.detach() for value in self.named.values()], 1 - decay
            )

    def state(self) -> dict[str, dict[str, Tensor]]:
        return {"parameters": {name: value.detach() for name, value in self.named.items()}, "average": self.average}

    @torch.no_grad()
    def restore(self, state: dict[str, dict[str, Tensor]]) -> None:
        """Load a state. Raises KeyError (missing tensor), ValueError (wrong shape), BadFile (NaN)."""
        for name, value in self.named.items():
            value.copy_(_of_shape(state["parameters"], name, value))
        for name, value in self.average.items():
            value.copy_(_of_shape(state["average"], name, value))

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Give the parameters their averaged values within the block, if averages are kept."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, value in self.average.items():
            held = value.clone()
            value.copy_(self.named[name])
            self.named[name].copy_(held)

    @torch.no_grad()
    def result(self) -> tuple[TripletAdapter, Lora, Lora]:
        """Return copies on the CPU of the trained adapter and of the LoRAs of the U-Net and the ControlNet.

        All have averaged weights, if averages are kept. Low-rank parts of the adapter are merged into its weights.
        """
        with self.averaged():
            adapter = _with(
                self.adapter,
                {name: value.detach().to("cpu", copy=True) for name, value in self.adapter.state_dict().items()},
            )
            for old, new in zip(_low_rank_layers(self.adapter), _low_rank_layers(adapter)):
                if old in self.extra:
                    new.weight += self.extra[old].weight.to(new.weight)
            loras = [
                Lora({name: part.copy().to("cpu") for name, part in lora.parts.items()})
                for lora in (self.lora, self.control)
            ]
        return adapter.eval(), *loras


def _trainable(
    lora: Lora, layers: Mapping[str, nn.Linear | nn.Conv2d], stage: Stage, trained: bool, device: torch.device
) -> Lora:
    """A copy of the LoRA on `device`, or a new LoRA for the layers if it is empty and to be trained."""
    if trained and not lora.parts:
        lora = Lora.new(layers, stage.lora_rank)
    return Lora({name: part.copy().to(device).requires_grad_(trained) for name, part in lora.parts.items()})


def group_of(name: str) -> str:
    """The group of an adapter's parameter: one of `stages.GROUPS`, or "location_head"."""
    if name.startswith(("face_projector", "image_projector")):
        return "projectors"
    if name.startswith("interplay"):
        return "interplay"
    if name.startswith("location_head"):
        return "location_head"  # not in GROUPS: trained before a stage (location.py), never with it
    part = name.split(".")[2] if name.count(".") >= 2 else ""
    return {"gate": "gates", "router": "gates", "kappa": "kappa"}.get(part, "keys_values")


def _low_rank_layers(adapter: TripletAdapter) -> list[nn.Linear]:
    return [linear for stream in adapter.streams.values() for linear in stream.low_rank_layers()]


def _of_shape(stored: dict[str, Tensor], name: str, value: Tensor) -> Tensor:
    if stored[name].shape != value.shape:
        raise ValueError(f"{name} has shape {list(stored[name].shape)}, not {list(value.shape)}")
    check_weights(name, stored[name], "the checkpoint", "Delete it to train this stage anew.")
    return stored[name]


def _fork(adapter: TripletAdapter, trained: set[str]) -> TripletAdapter:
    """The adapter with float32 copies of the trained groups; others are shared, and inference tensors are copied."""
    return _with(
        adapter,
        {
            name: value.detach().float().clone()
            if group_of(name) in trained
            else value.detach().clone()
            if value.is_inference()
            else value.detach()
            for name, value in adapter.state_dict().items()
        },
    )


def _with(adapter: TripletAdapter, tensors: dict[str, Tensor]) -> TripletAdapter:
    with torch.device("meta"):
        copy = TripletAdapter(adapter.config)
    copy.load_state_dict(tensors, assign=True)
    return copy.requires_grad_(False)
