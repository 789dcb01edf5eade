"""One stage of a training on a ComfyUI MODEL: what goes in, what comes out, and pictures on the way."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ....adapter.model import TripletAdapter
from ....bases import name_of
from ....bases.layers import LayerMap
from ....errors import FaceCDMError, Mismatch
from ....training.initialise import init_bottleneck, known_faces
from ....training.lora import Lora
from ....training.losses import LossInputs
from ....training.position_init import can_init_positions, init_positions
from ....training.preview import choose, preview
from ....training.source import Source
from ....training.stages import Stage
from ....training.terms import terms_of
from ....training.trainer import Trainer
from ..unet import layer_map
from .denoiser import ComfyDenoiser, natural_dtype

PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16"}
SHOWN = 4  # pictures that are watched, at most


@dataclass(frozen=True, eq=False)
class Inputs:
    """What a training works with: sockets of a graph, `folder` for its state, and the ONNX file of the `recogniser`
    that embedded the data set, for the identity loss."""

    model: object
    data: Source
    folder: Path
    vae: object = None
    control: object = None
    recogniser: Path | None = None
    recogniser_name: str = ""


@dataclass(frozen=True, eq=False)
class Trained:
    """What a stage made: `lora` and the ControlNet's, `control_lora`, as LORA_MODELs, `pictures` [N, H, W, 3] in 0…1 or
    None, `report` lines."""

    adapter: TripletAdapter
    lora: dict[str, Tensor]
    history: list[dict]
    pictures: Tensor | None
    report: list[str] = field(default_factory=list)
    control_lora: dict[str, Tensor] = field(default_factory=dict)


Watch = Callable[[Trainer, Tensor | None], None]


def train_stage(
    inputs: Inputs,
    adapter: TripletAdapter,
    lora: dict[str, Tensor],
    stage: Stage,
    wanted: frozenset[str],
    watch: Watch | None = None,
    control_lora: dict[str, Tensor] | None = None,
) -> Trained:
    """Train one stage, or what is left of it. `wanted` are the settings that the user set, not the preset.

    `watch` is called after every step, with pictures where new ones were made; what it raises (an interrupt) ends the
    stage, which is kept on disk and goes on when called again. Raises FaceCDMError for inputs that do not fit.
    """
    with torch.inference_mode(False), torch.enable_grad():
        stage, notices = fitted(stage, inputs, wanted)
        new, adapter = adapter.is_new, begun(adapter, inputs.data, layer_map(inputs.model))
        with ComfyDenoiser(inputs.model, inputs.vae, inputs.control) as denoiser:
            if new and inputs.vae is not None and can_init_positions(adapter, inputs.data):
                init_positions(adapter, denoiser, inputs.data)
            held_out = hold_out(inputs.data)
            terms = terms_of(stage, LossInputs(inputs.data, denoiser, adapter, inputs.recogniser))
            trainer = Trainer(
                denoiser,
                adapter,
                Lora.from_tensors(lora),
                inputs.data,
                stage,
                terms,
                inputs.folder,
                held_out,
                denoiser.fingerprint,
                control=Lora.from_tensors(control_lora or {}),
            )
            began, first = time.monotonic(), trainer.step
            _forget_peak(denoiser.device)

            def after(trainer: Trainer) -> None:
                seen = trainer.step % stage.validate_every == 0 and trainer.step < stage.steps
                if watch is not None:
                    watch(trainer, _pictures(trainer, inputs, held_out) if seen else None)

            result = trainer.run(after)
            seconds = time.monotonic() - began
            with trainer.learner.lora.on(denoiser.layers()):
                pictures = _pictures(trainer, inputs, held_out)
            report = [*notices, *_report(trainer, first, seconds, held_out, inputs)]
    return Trained(result.adapter, result.lora.tensors(), result.history, pictures, report, result.control.tensors())


def fitted(stage: Stage, inputs: Inputs, wanted: frozenset[str]) -> tuple[Stage, list[str]]:
    """The stage as these inputs allow it, and what was left out. Raises where the user asked for what is left out."""
    notices = []
    if "precision" not in wanted:
        stage = stage.but(precision=PRECISION[natural_dtype(inputs.model)])
    lacking = [name for name, value in (("a face analyzer", inputs.recogniser), ("a VAE", inputs.vae)) if value is None]
    if stage.identity and lacking:
        text = f"the identity loss needs {' and '.join(lacking)}"
        if "identity" in wanted:
            raise FaceCDMError(f"{text}: connect it, or leave identity as the preset has it")
        notices.append(f"no identity loss: {text}")
        stage = stage.but(identity=0.0)
    if stage.identity and inputs.recogniser_name != inputs.data.recogniser:
        raise Mismatch(
            f"the data set's faces were embedded by {inputs.data.recogniser}, and the analyzer has "
            f"{inputs.recogniser_name}: load the same face pack for the identity loss"
        )
    if inputs.vae is None:
        notices.append("no validation pictures: connect a VAE to see them")
    return stage, notices


def begun(adapter: TripletAdapter, data: Source, base: LayerMap) -> TripletAdapter:
    """The adapter as the training takes it: it knows its recogniser, and an untrained one knows the data's faces.

    Raises Mismatch where adapter, data set and MODEL (whose map `base` is) were not made for each other.
    """
    config = adapter.config
    if config.layer_map != base:
        raise Mismatch(
            f"the adapter was made for {name_of(config.layer_map)}, and the MODEL is {name_of(base)}: make one with "
            "New Adapter from this MODEL"
        )
    text = data.empty_prompt.states.shape[-1]
    if text != base.context:
        raise Mismatch(
            f"the data set's text has {text} features and the MODEL reads {base.context}: prepare the data "
            "set with this MODEL and its CLIP"
        )
    face, vision = data.features([0], [None])
    if config.recogniser not in ("", data.recogniser):
        raise Mismatch(
            f"the adapter was trained with {config.recogniser} and the data set's faces were embedded by "
            f"{data.recogniser}: prepare the data set with the adapter's face pack"
        )
    if config.face_width != face.shape[-1]:
        raise Mismatch(
            f"the adapter takes {config.face_width} features of a face and the data set has {face.shape[-1]}"
        )
    if config.image_width and vision is not None and config.image_width != vision.shape[-1]:
        raise Mismatch(
            f"the adapter takes {config.image_width} features of a whole image and the data set has "
            f"{vision.shape[-1]}: use the same CLIP Vision in New Adapter and Prepare Data Set"
        )
    with torch.device("meta"):
        copy = TripletAdapter(replace(config, recogniser=data.recogniser))
    copy.load_state_dict(
        {
            name: value.detach().clone()
            if value.is_inference() or name.startswith("face_projector")
            else value.detach()
            for name, value in adapter.state_dict().items()
        },
        assign=True,
    )
    if adapter.is_new:
        init_bottleneck(copy, *known_faces(data))
    return copy.requires_grad_(False)


def hold_out(data: Source) -> frozenset[int]:
    """A twentieth of the pictures, four at most, that are watched and not trained on; none of a handful.

    Of people with other photos, whose reference is then another picture; evenly taken.
    """
    count = min(SHOWN, len(data) // 20)
    eligible = [i for i in range(len(data)) if data.references(i)] if len(data) <= 2000 else list(range(len(data)))
    if not count or not eligible:
        return frozenset()
    return frozenset(eligible[i * len(eligible) // count] for i in range(count))


def _pictures(trainer: Trainer, inputs: Inputs, held_out: frozenset[int]) -> Tensor | None:
    """[N, H, W, 3]: people that are watched, as the weights' average draws them; the learner's LoRA must be on."""
    if inputs.vae is None:
        return None
    people, prompts = choose(inputs.data, sorted(held_out) or list(range(len(inputs.data))), SHOWN)
    return preview(trainer.denoiser, trainer.learner, inputs.data, people, prompts).movedim(1, -1).cpu()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _report(trainer: Trainer, first: int, seconds: float, held_out: frozenset[int], inputs: Inputs) -> list[str]:
    stage, done = trainer.stage, trainer.step - first
    learnt = sum(value.numel() for value in trainer.learner.named.values())
    device = trainer.denoiser.device
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.2f} GiB at most" if device.type == "cuda" else ""
    lines = [
        f"stage {stage.name}: {trainer.step} of {stage.steps} steps"
        + (f" (went on from step {first})" if first else ""),
        f"{len(inputs.data) - len(held_out)} pictures, batch {stage.batch} × {stage.accumulation}; "
        f"{learnt / 1e6:.2f} M numbers learn: {', '.join(stage.train)}",
        f"{stage.precision} on {device}{memory}"
        + (f", {seconds / done:.2f} s a step" if done else ", nothing left to do"),
    ]
    steps = [line for line in trainer.history if "diffusion" in line]
    tenth = max(len(steps) // 10, 1)
    for name in dict.fromkeys(name for line in steps for name in line if name != "step"):
        values = [line[name] for line in steps if name in line]
        lines.append(f"{name}: {_mean(values[:tenth]):.4g} → {_mean(values[-tenth:]):.4g}")
    checks = [line for line in trainer.history if "validation" in line]
    if checks:
        lines.append(
            f"held out: {checks[-1]['validation']:.4g} with the face, "
            f"{checks[-1]['validation without face']:.4g} without"
        )
    return [*lines, f"state: {trainer.checkpoint}"]


def _mean(values: list[float]) -> float:
    return sum(values) / max(len(values), 1)
