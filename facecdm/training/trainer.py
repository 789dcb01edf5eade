"""The loop of one stage: batches, steps, checkpoints, and what comes out."""

import hashlib
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ..adapter.model import TripletAdapter
from ..adapter.reference_batch import ReferenceBatch
from ..errors import FaceCDMError
from . import state
from .denoiser import Denoiser, digest_of
from .learner import Learner
from .lora import Lora
from .losses.diffusion import DiffusionLoss
from .randomness import RandomDraws, batches, draw
from .rows import moved
from .source import Source
from .stages import Stage
from .step import Term, forward, see
from .window import windowed

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Worker:
    """This process among those that share every batch; `mean` averages a tensor over them in place."""

    rank: int = 0
    count: int = 1
    mean: Callable[[Tensor], Tensor] = field(default=lambda value: value)


@dataclass(frozen=True, eq=False)
class StageResult:
    """What a stage made: the adapter, the LoRA of the U-Net, and a line of `history` for every step and validation;
    `control` is the ControlNet's LoRA, empty where none was trained."""

    adapter: TripletAdapter
    lora: Lora
    history: list[dict]
    control: Lora = field(default_factory=Lora)


class Trainer:
    """One stage of a training on one denoiser. `folder` keeps its checkpoint; a run that was stopped goes on there.

    `terms` are the losses, `held_out` numbers of the data set that are not trained on but watched.
    Raises state.OtherRun where the folder holds the checkpoint of another training.
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
        worker: Worker | None = None,
        control: Lora | None = None,
    ):
        self.denoiser, self.data, self.stage, self.terms = denoiser, data, stage, terms
        self.worker = worker or Worker()
        self.held_out = sorted(held_out)
        self.buckets = [kept for bucket in data.buckets if (kept := [i for i in bucket if i not in held_out])]
        if not self.buckets:
            raise FaceCDMError("the data set has no picture to train on; see its report for what was dropped and why")
        if stage.batch % self.worker.count:
            raise FaceCDMError(
                f"batch ({stage.batch}) must be a multiple of the number of processes ({self.worker.count})"
            )
        control, everywhere = control or Lora(), stage.lora_layers == "all"
        layers = denoiser.layers() if everywhere else denoiser.linears()
        steered = {name: layer for name, layer in denoiser.control_layers().items() if everywhere or ".attn" in name}
        if "control" in stage.train and not (steered and data.has_pose):
            raise FaceCDMError(
                'the stage trains the LoRA of a ControlNet ("control"), and there is no ControlNet, or '
                'the data set has no pose pictures: give both, or leave "control" out of what it trains'
            )
        check_location_conditioning(stage, adapter)
        self.learner = Learner(adapter, lora, layers, stage, denoiser.device, control, steered)
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
            _hash(adapter, lora, control),
            self.held_out,
            denoiser.control_fingerprint,
            _recogniser(terms),
        )
        self.step, scaler, self.history = state.resume(self.checkpoint, self.learner, self.optimiser, self.identity)
        if scaler:
            self._scaler.load_state_dict(scaler)
        self.empty = moved(data.empty_prompt, denoiser.device)
        self._whole = True

    def run(self, watch: Callable[["Trainer"], None] | None = None) -> StageResult:
        """Train what is left. `watch` is called after every step; what it raises stops the run, which is saved."""
        stage, denoiser = self.stage, self.denoiser
        denoiser.compute_in(DTYPES[stage.precision])
        denoiser.checkpoint(stage.checkpointing)
        denoiser.learn_control("control" in stage.train)
        layers = denoiser.layers() if self.learner.lora.parts else {}
        steered = denoiser.control_layers() if self.learner.control.parts else {}
        number = self.step * stage.accumulation
        order = batches(self.buckets, stage.batch, stage.seed, number)
        try:
            with self.learner.lora.on(layers), self.learner.control.on(steered):
                while self.step < stage.steps:
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
            if self._whole:  # a step that was cut in two is left to the checkpoint before it
                self.save()
        adapter, lora, control = self.learner.result()
        return StageResult(adapter, lora, self.history, control)

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
        for value in parameters:  # none where no row showed the stream; alike in every process, so that all can share
            value.grad = torch.zeros_like(value) if value.grad is None else value.grad
        if self.worker.count > 1:
            self._share([value.grad for value in parameters])
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

    @torch.no_grad()
    def _share(self, gradients: list[Tensor]) -> None:
        """Average them over the processes, in one message in place of hundreds."""
        whole = self.worker.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, whole.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(mean.view_as(gradient))

    def _forward(self, indices: list[int], micro: int, step: int) -> tuple[Tensor, dict[str, Tensor]]:
        part = slice(self.worker.rank, None, self.worker.count)
        draws = draw(self.stage, step, micro, (len(indices), *self._shape(indices)))
        draws = draws.part(part)
        rows, reference_batch = self._batch(indices[part], draws)
        if draws.window[0]:
            rows, draws = windowed(rows, draws)
        return forward(self.denoiser, self.learner, self.terms, rows, reference_batch, self.empty, draws, step)

    def _shape(self, indices: list[int]) -> tuple[int, ...]:
        return self.data.latent_shape(indices[0])

    def _batch(self, indices: list[int], draws: RandomDraws) -> tuple:
        """The rows of `indices`, and the crowd of their references."""
        device = self.denoiser.device
        rows = moved(self.data.load(indices), device)
        references, augmented = [], []
        for index, own, choice in zip(indices, draws.own.tolist(), draws.choice.tolist()):
            others = self.data.references(index)
            references.append(index if own or not others else others[int(choice * len(others))])
            augmented.append(choice if not others and not own else None)
        face, vision = self.data.features(references, augmented)
        face = torch.nn.functional.normalize(face.to(device).float(), dim=1)
        reference_batch = ReferenceBatch(
            face,
            None if vision is None else vision.to(device).float(),
            draws.face_on.to(device),
            draws.image_on.to(device),
        )
        return rows, reference_batch

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """The diffusion loss on held-out pictures with their people, and without, at ever the same noise."""
        stage = self.stage.but(
            drop_text=0.0,
            drop_face=0.0,
            drop_image=0.0,
            drop_all=0.0,
            drop_pose=1.0,
            own_photo=0.0,
            face_region=0.0,
            face_window=0.0,
            seed=0,
        )
        plain = DiffusionLoss(gamma=0.0)
        sums, count = {"validation": 0.0, "validation without face": 0.0}, 0
        with self.learner.averaged():
            for number, indices in enumerate(_same_size(self.data.buckets, self.held_out, stage.batch)):
                draws = draw(stage, 0, number, (len(indices), *self._shape(indices)))
                rows, reference_batch = self._batch(indices, draws)
                step_data = see(self.denoiser, self.learner, {"plain"}, rows, reference_batch, self.empty, draws, 0)
                sums["validation"] += float(plain(step_data)) * len(indices)
                without = replace(step_data, prediction=step_data.plain_prediction)
                sums["validation without face"] += float(plain(without)) * len(indices)
                count += len(indices)
        return {name: round(value / count, 6) for name, value in sums.items()}


def check_location_conditioning(stage: Stage, adapter: TripletAdapter) -> None:
    """Raises FaceCDMError where a stage looks at faces drawn from noise, and nothing says where they will be."""
    drawn = stage.identity and stage.few_steps and stage.few_steps_from == "noise"
    if drawn and not (adapter.config.places and stage.drop_pose < 1):
        raise FaceCDMError(
            "few_steps_from: noise wants an adapter that is told where the face is, for the recogniser "
            "to look there: a new one with a square number of face tokens, from 32 people or more, and "
            "drop_pose below 1; or take few_steps_from: picture"
        )


def rate(stage: Stage, step: int) -> float:
    """The factor of the learning rate after `step` steps: a warm-up, then the stage's schedule down to a hundredth."""
    rise = min(1.0, (step + 1) / stage.warmup) if stage.warmup else 1.0
    share = step / max(stage.steps, 1)
    fall = {"constant": 1.0, "linear": 1 - share, "cosine": 0.5 * (1 + math.cos(math.pi * share))}[stage.schedule]
    return rise * max(fall, 0.01)


def _same_size(buckets: list[list[int]], chosen: list[int], batch: int) -> list[list[int]]:
    wanted = set(chosen)
    held = [[i for i in bucket if i in wanted] for bucket in buckets]
    return [some[at : at + batch] for some in held for at in range(0, len(some), batch)]


def _recogniser(terms: list[Term]) -> str:
    """Names the network that an identity loss looks through; "" where there is none."""
    found = [term.loss.recogniser for term in terms if hasattr(term.loss, "recogniser")]
    return digest_of("recogniser", (value for network in found for value in network.buffers())) if found else ""


def _hash(adapter: TripletAdapter, *loras: Lora) -> str:
    """Of all weights that a stage begins with."""
    digest = hashlib.sha256(json.dumps(adapter.config.dumps()).encode())
    for name, value in (*adapter.state_dict().items(), *(pair for lora in loras for pair in lora.tensors().items())):
        digest.update(name.encode())
        digest.update(
            value.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes()
            if value.dim()
            else str(value.item()).encode()
        )
    return digest.hexdigest()
