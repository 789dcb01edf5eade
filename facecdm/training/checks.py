"""Checks before the first stage that the parts of a training run fit together, for every host."""

from dataclasses import dataclass
from pathlib import Path

import torch

from ..adapter.model import TripletAdapter
from ..bases import name_of
from ..errors import FaceCDMError, Mismatch, MissingModel
from ..faces.value import same_recogniser
from .denoiser import Denoiser
from .held_out import HELD_OUT
from .randomness import STEPS
from .source import Source
from .stages import Stage
from .worker import ALONE, Worker

PRECISION = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Recogniser:
    """InsightFace's recogniser for the identity loss: its ONNX `file`, and its `name` in data sets."""

    file: Path
    name: str


@dataclass(frozen=True, eq=False)
class Inputs:
    """The inputs of every stage of a training run.

    denoiser    the frozen base model, with its autoencoder and pose ControlNet if given
    data        the data set
    folder      the run's folder: checkpoints, histories, plots, pictures
    recogniser  for the identity loss; None without one
    held_out    the share of the data set, 0…1, that is held out (see held_out.py)
    positions   whether a new adapter's face tokens are initialised as positions in the face (see position_init.py)
    worker      this process, one of those that share the batches
    """

    denoiser: Denoiser
    data: Source
    folder: Path
    recogniser: Recogniser | None = None
    held_out: float = HELD_OUT
    positions: bool = True
    worker: Worker = ALONE


@dataclass(frozen=True)
class Job:
    """A stage to train. `required` are the settings that the user asked for; the others may be fitted to the inputs."""

    stage: Stage
    required: frozenset[str]


def fitted(job: Job, inputs: Inputs) -> tuple[Stage, list[str]]:
    """The stage fitted to the inputs, and notices of omitted parts. Raises FaceCDMError if one of them is required."""
    stage, notices = job.stage, []
    if "precision" not in job.required:
        stage = stage.with_settings(precision=PRECISION[inputs.denoiser.dtype])
    if inputs.denoiser.layer_map.is_dit and stage.rank:
        stage = stage.with_settings(rank=0)
        if "keys_values" in stage.train:
            notices.append("rank 0: the cells of a DiT's adapter are trained whole")
    lacking = _lacking_for_identity(inputs)
    if stage.identity and lacking:
        text = f"the identity loss needs {' and '.join(lacking)}"
        if "identity" in job.required:
            raise FaceCDMError(f"the stage {stage.name!r}: {text}. Give it, or set identity to 0")
        notices.append(f"no identity loss: {text}")
        stage = stage.with_settings(identity=0.0)
    if not inputs.denoiser.can_decode:
        notices.append("no preview pictures: connect a VAE to see them")
    return stage, notices + _without_effect(stage, inputs)


def _without_effect(stage: Stage, inputs: Inputs) -> list[str]:
    """Notices of a ControlNet and of settings that are not used."""
    notices = []
    if inputs.denoiser.control_fingerprint and not inputs.data.has_pose:
        notices.append(
            "the ControlNet is not used: the data set has no pose pictures; set pose when preparing it, or give no "
            "ControlNet"
        )
    elif inputs.denoiser.control_fingerprint and stage.drop_pose == 1:
        notices.append("the ControlNet is not used: drop_pose is 1")
    if stage.noise_share == 0 and (stage.noise_low, stage.noise_high) != (0, STEPS):
        notices.append("noise_low and noise_high are not used: noise_share is 0")
    return notices


def check_stage(stage: Stage, inputs: Inputs) -> None:
    """Check that these inputs can train the stage. Raises FaceCDMError, Mismatch or MissingModel."""
    data, worker = inputs.data, inputs.worker
    if stage.identity:
        _check_recogniser(inputs)
    if "control" in stage.train and not (inputs.denoiser.control_layers() and data.has_pose):
        raise FaceCDMError(
            f"the stage {stage.name!r} trains the LoRA of a ControlNet, and there is no ControlNet, or the data set "
            "has no pose pictures: name the ControlNet as control and prepare the data set with pose pictures, or "
            'leave "control" out of train'
        )
    if stage.batch % worker.count:
        raise FaceCDMError(
            f"batch ({stage.batch}) of the stage {stage.name!r} must be a multiple of the number of processes "
            f"({worker.count})"
        )


def check_adapter(adapter: TripletAdapter, denoiser: Denoiser, data: Source) -> None:
    """Check that adapter, data set and base model were made for each other. Raises FaceCDMError or Mismatch."""
    base, text = denoiser.layer_map, data.empty_prompt.states.shape[-1]
    if text != base.context:
        raise Mismatch(
            f"the data set's prompts have {text} features and the base model reads {base.context}: prepare the data "
            "set with the base model (and its CLIP) that is trained"
        )
    if not isinstance(adapter, TripletAdapter):
        raise FaceCDMError("a published adapter cannot be trained: use New FaceCDM Adapter, or load a FaceCDM adapter")
    config = adapter.config
    if config.layer_map != base:
        raise Mismatch(
            f"the adapter was made for {name_of(config.layer_map)}, and the base model is {name_of(base)}: make a new "
            "adapter for this base model (New FaceCDM Adapter)"
        )
    face, vision = data.features([0], [None])
    if config.recogniser and not same_recogniser(config.recogniser, data.recogniser):
        raise Mismatch(
            f"the adapter was trained with {config.recogniser} and the data set's faces were embedded by "
            f"{data.recogniser}: prepare the data set with the adapter's face pack"
        )
    if config.face_width != face.shape[-1]:
        raise Mismatch(
            f"the adapter takes face embeddings of {config.face_width} features and the data set's have "
            f"{face.shape[-1]}: prepare the data set with the adapter's face pack"
        )
    if config.image_width and vision is not None and config.image_width != vision.shape[-1]:
        raise Mismatch(
            f"the adapter takes images of {config.image_width} features and the data set has {vision.shape[-1]}: use "
            "the same CLIP Vision for the adapter and the data set"
        )


def _lacking_for_identity(inputs: Inputs) -> list[str]:
    recogniser = (
        f"a face recogniser (face_analyzer; in a configuration `recogniser`, the file of {inputs.data.recogniser})"
    )
    return [
        name
        for name, there in ((recogniser, inputs.recogniser is not None), ("a VAE", inputs.denoiser.can_decode))
        if not there
    ]


def _check_recogniser(inputs: Inputs) -> None:
    given, wanted = inputs.recogniser, inputs.data.recogniser
    if not same_recogniser(given.name, wanted):
        raise Mismatch(
            f"the data set's faces were embedded by {wanted}, and the recogniser for the identity loss is "
            f"{given.name}: use the same one"
        )
    if given.file.suffix.lower() != ".onnx":
        raise FaceCDMError(
            f"the identity loss reads ONNX recognisers, and {given.file.name} is none: set the identity losses to 0, "
            "or prepare the data set with another face pack"
        )
    if not given.file.is_file():
        raise MissingModel(f"there is no recogniser at {given.file}: name InsightFace's file of {wanted}")
