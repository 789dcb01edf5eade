"""The loop of one stage: batches, steps, validation, checkpoints, and the result."""

import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.model import TripletAdapter
from ..adapter.reference_batch import ReferenceBatch
from ..errors import FaceCDMError
from . import state
from .denoiser import Denoiser, digest_of
from .divergence import check_steps, check_weights
from .held_out import without
from .learner import Learner
from .lora import Lora
from .losses.diffusion import DiffusionLoss
from .randomness import RandomNumbers, batches, make_random_numbers
from .rows import moved
from .source import Source
from .stages import Stage
from .step import Term, compute_step_data, forward
from .window import windowed
from .worker import ALONE, Worker

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True, eq=False)
class StageResult:
    """The result of a stage.

    adapter  the trained adapter, on the CPU
    lora     the U-Net's LoRA
    history  a dictionary for every step and validation
    control  the ControlNet's LoRA; empty if none was trained
    """

    adapter: TripletAdapter
    lora: Lora
    history: list[dict]
    control: Lora = field(default_factory=Lora)


class Trainer:
    """One stage of a training run on one denoiser. A run that was stopped resumes from its checkpoint in `folder`.

    `terms` are the losses. `held_out` are the indices of pictures that are kept for validation.
    Raises state.RunMismatch if the folder holds the checkpoint of another training run.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        adapter: TripletAdapter,
        lora: Lora,
        data: Source,
        stage: Stage,
        terms: list[Term],
        folder: Path,
        held_out: frozenset[int] = frozenset(),
        base: str = "",
        worker: Worker = ALONE,
        control: Lora | None = None,
    ):
        self.denoiser, self.data, self.stage, self.terms = denoiser, data, stage, terms
        self.worker = worker
        self.held_out = held_out
        self.buckets = without(data.buckets, held_out)
        if not self.buckets:
            raise FaceCDMError("the data set has no picture to train on; its report says what was rejected and why")
        control, all_layers = control or Lora(), stage.lora_layers == "all"
        layers = denoiser.layers() if all_layers else denoiser.linears()
        control_layers = {
            name: layer for name, layer in denoiser.control_layers().items() if all_layers or ".attn" in name
        }
        self.learner = Learner(adapter, lora, layers, stage, denoiser.device, control, control_layers)
        self.optimiser = torch.optim.AdamW(
            self.learner.groups(),
            stage.learning_rate,
            betas=(0.9, 0.99),
            eps=1e-8,
            fused=denoiser.device.type in ("cpu", "cuda"),
        )
        self._scaler = torch.amp.GradScaler(denoiser.device.type, enabled=stage.precision == "fp16")
        self.checkpoint = Path(folder) / f"{stage.name}.pt"
        self.identity = state.RunIdentity(
            stage.to_dict(),
            data.fingerprint,
            base,
            start_hash(adapter, lora, control),
            sorted(held_out),
            denoiser.control_fingerprint,
            _recogniser_hash(terms),
        )
        self.step, scaler, self.history = state.resume(
            self.checkpoint, self.learner, self.optimiser, self.identity, self.worker
        )
        if scaler:
            self._scaler.load_state_dict(scaler)
        self.empty = moved(data.empty_prompt, denoiser.device)
        self._whole = True

    def run(self, watch: Callable[["Trainer"], None] | None = None) -> StageResult:
        """Train the remaining steps. `watch` is called after each step; if it raises, the run is saved and stops.

        Raises Diverged.
        """
        stage, denoiser = self.stage, self.denoiser
        denoiser.compute_in(DTYPES[stage.precision])
        denoiser.checkpoint(stage.checkpointing)
        denoiser.learn_control("control" in stage.train)
        order = batches(self.buckets, stage.batch, stage.seed, self.step * stage.accumulation)
        try:
            with self.applied():
                while self.step < stage.steps:
                    check_steps(self.history, stage)
                    self._train_step([next(order) for _ in range(stage.accumulation)])
                    if self.step % stage.validate_every == 0 and self.held_out:
                        self.history.append({"step": self.step, **self.validate()})
                    if self.step % stage.save_every == 0:
                        self.save()
                    if watch is not None:
                        watch(self)
        finally:
            denoiser.checkpoint(False)
            denoiser.learn_control(False)
            denoiser.compute_in(torch.float32)
            if self._whole:  # an interrupted step is repeated from the last checkpoint
                self.save()
        check_steps(self.history, stage)
        adapter, lora, control = self.learner.result()
        for what, tensors in (
            ("the adapter", adapter.state_dict()),
            ("the LoRA", lora.tensors()),
            ("the ControlNet's LoRA", control.tensors()),
        ):
            check_weights(tensors, what)
        return StageResult(adapter, lora, self.history, control)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Apply the LoRAs to the U-Net and the ControlNet within the block."""
        learner, denoiser = self.learner, self.denoiser
        layers = denoiser.layers() if learner.lora.parts else {}
        control_layers = denoiser.control_layers() if learner.control.parts else {}
        with learner.lora.on(layers), learner.control.on(control_layers):
            yield

    def save(self) -> None:
        if self.worker.rank == 0:
            state.save(
                self.checkpoint,
                self.learner,
                self.optimiser,
                self._scaler.state_dict(),
                self.identity,
                self.step,
                self.history,
            )

    def _train_step(self, chosen: list[list[int]]) -> None:
        stage = self.stage
        for group in self.optimiser.param_groups:
            group["lr"] = stage.learning_rate * group["factor"] * rate(stage, self.step)
        sums: dict[str, Tensor] = {}
        for micro, indices in enumerate(chosen):
            total, values = self._forward(indices, micro, self.step + 1)
            self._scaler.scale(total / stage.accumulation).backward()
            for name, value in values.items():
                sums[name] = sums.get(name, 0) + value / stage.accumulation
        parameters = list(self.learner.named.values())
        for value in parameters:  # zeros if no row used the stream, since all processes must average the same tensors
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        self.worker.average([value.grad for value in parameters])
        self._scaler.unscale_(self.optimiser)
        norm = torch.nn.utils.clip_grad_norm_(parameters, stage.clip)
        self._whole = False
        if torch.isfinite(norm) or self._scaler.is_enabled():
            self._scaler.step(self.optimiser)
            self._scaler.update()
        self.optimiser.zero_grad(set_to_none=True)
        self.step += 1
        self.learner.follow(self.step)
        line = {name: round(float(value), 6) for name, value in sums.items()}
        self.history.append({"step": self.step, **line, "gradient": round(float(norm), 6)})
        self._whole = True

    def _forward(self, indices: list[int], micro: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        part = slice(self.worker.rank, None, self.worker.count)
        random_numbers = make_random_numbers(self.stage, step, micro, (len(indices), *self._shape(indices)))
        random_numbers = random_numbers.part(part)
        rows, reference_batch = self._batch(indices[part], random_numbers)
        if random_numbers.window[0]:
            rows, random_numbers = windowed(rows, random_numbers, self.denoiser.stride)
        return forward(self.denoiser, self.learner, self.terms, rows, reference_batch, self.empty, random_numbers, step)

    def _shape(self, indices: list[int]) -> tuple[int, ...]:
        return self.data.latent_shape(indices[0])

    def _batch(self, indices: list[int], random_numbers: RandomNumbers) -> tuple:
        """The rows of `indices`, and their references. Held-out pictures are references of held-out pictures only."""
        device = self.denoiser.device
        rows = moved(self.data.load(indices), device)
        references, augmented = [], []
        for index, own, choice in zip(indices, random_numbers.own.tolist(), random_numbers.choice.tolist()):
            others = self.data.references(index)
            if index not in self.held_out:
                others = [other for other in others if other not in self.held_out]
            references.append(index if own or not others else others[int(choice * len(others))])
            augmented.append(choice if not others and not own else None)
        face, vision = self.data.features(references, augmented)
        face = torch.nn.functional.normalize(face.to(device).float(), dim=1)
        reference_batch = ReferenceBatch(
            face,
            None if vision is None else vision.to(device).float(),
            random_numbers.face_on.to(device),
            random_numbers.image_on.to(device),
        )
        return rows, reference_batch

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The diffusion loss of the averaged weights on held-out pictures, with and without the face stream.

        Both calls have the LoRA, the image stream, and the pose and face location unless the stage drops every pose.
        The noise is always the same.
        """
        stage = self.stage.with_settings(
            drop_text=0.0,
            drop_face=0.0,
            drop_image=0.0,
            drop_all=0.0,
            drop_pose=float(self.stage.drop_pose == 1),
            own_photo=0.0,
            face_region=0.0,
            face_window=0.0,
            find_location=0.0,
            seed=0,
        )
        diffusion, count = DiffusionLoss(gamma=0.0), 0
        sums = {"validation": 0.0, "validation without face": 0.0}
        with self.learner.averaged():
            for number, indices in enumerate(_same_size(self.data.buckets, sorted(self.held_out), stage.batch)):
                random_numbers = make_random_numbers(stage, 0, number, (len(indices), *self._shape(indices)))
                rows, references = self._batch(indices, random_numbers)
                faceless = replace(references, face_on=torch.zeros_like(references.face_on))
                for name, given in zip(sums, (references, faceless)):
                    step_data = compute_step_data(
                        self.denoiser, self.learner, set(), rows, given, self.empty, random_numbers, 0
                    )
                    sums[name] += float(diffusion(step_data)) * len(indices)
                count += len(indices)
        return {name: round(value / count, 6) for name, value in sums.items()}


def rate(stage: Stage, step: int) -> float:
    """The learning rate's factor after `step` steps: a warm-up, then the stage's schedule down to 1/100."""
    rise = min(1.0, (step + 1) / stage.warmup) if stage.warmup else 1.0
    share = step / max(stage.steps, 1)
    fall = {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}[stage.schedule]
    return rise * max(fall, 0.01)


def _same_size(buckets: Sequence[Sequence[int]], chosen: list[int], batch: int) -> list[list[int]]:
    wanted = set(chosen)
    held = [[i for i in bucket if i in wanted] for bucket in buckets]
    return [some[at : at + batch] for some in held for at in range(0, len(some), batch)]


def _recogniser_hash(terms: list[Term]) -> str:
    """A hash of the identity loss's network; "" without one."""
    found = [term.loss.recogniser for term in terms if hasattr(term.loss, "recogniser")]
    return digest_of("recogniser", (value for network in found for value in network.buffers())) if found else ""


def start_hash(adapter: TripletAdapter, *loras: Lora) -> str:
    """A hash of all initial weights of a training run."""
    digest = hashlib.sha256(json.dumps(adapter.config.dumps()).encode())
    for name, value in (*adapter.state_dict().items(), *(pair for lora in loras for pair in lora.tensors().items())):
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if value.dim()
            else str(value.item()).encode()
        )
    return digest.hexdigest()
