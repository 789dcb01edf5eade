"""Train FaceCDM Stage and Train FaceCDM."""

from itertools import accumulate
from pathlib import Path

import torch
from comfy_api.latest import io, ui

from ..facecdm.files import check_filename
from ..facecdm.training.held_out import HELD_OUT
from ..facecdm.training.stages import PRESETS, Stage, preset
from .checks import checked, validity
from .inputs import choice, integer, number, optional
from .new_fields import aliases
from .sockets import ADAPTER, DATA_SET, FACE_ANALYZER
from .stage_settings import STAGE_SETTINGS
from .warn import output

CATEGORY = "FaceCDM/training"
HOME = "facecdm_training"  # below ComfyUI's output folder
LORA_MODEL, LOSS_MAP = io.Custom("LORA_MODEL"), io.Custom("LOSS_MAP")  # types of core's Train LoRA and related nodes
STAGES = ("1 broad", "2 identity", "3 fine")


def runs_folder() -> Path:
    import folder_paths

    return Path(folder_paths.get_output_directory()) / HOME


def _shared_inputs() -> list:
    return [
        io.Model.Input(
            "model",
            tooltip="The base model: SD1.5, SD2, SDXL, Flux.1, Chroma, SD3.5, Qwen-Image, Z-Image, a fine-tune of "
            "these, or the demo model, with its LoRA patches.",
        ),
        ADAPTER.Input("adapter", tooltip="From New FaceCDM Adapter, Load FaceCDM Adapter, or the previous stage."),
        DATA_SET.Input("data_set", tooltip="From Prepare FaceCDM Data Set."),
        io.String.Input(
            "run",
            default="my training",
            tooltip="Folder below output/facecdm_training for the state; a stopped run resumes.",
        ),
        choice(
            "preset",
            PRESETS,
            "one person",
            "Starting values: an adapter for many people; a located one, which needs 1024 face tokens and 32 people or "
            "more; or an adapter for one person from some photos. For Flux.1, Chroma, SD3.5, Qwen-Image and Z-Image, "
            "choose one that begins with DiT.",
        ),
    ]


def _common_inputs() -> list:
    return [
        io.Int.Input("batch", default=0, min=0, max=1024, tooltip="Pictures in a batch; 0: as the preset has it."),
        integer(
            "seed",
            0,
            0,
            2**53,
            "Seed of all random choices; the same inputs and seed give the same training.",
            control_after_generate=False,
        ),
    ]


def _optional_inputs() -> list:
    return [
        optional(io.Vae, "vae", "For the identity loss and the preview pictures."),
        optional(FACE_ANALYZER, "face_analyzer", "For the identity loss: the one that the data set was prepared with."),
        optional(
            io.ControlNet,
            "control_net",
            "A pose ControlNet, for data sets with pose pictures. It is not changed; a LoRA of it can be "
            "trained (control, in FaceCDM Stage Settings' train).",
        ),
        optional(LORA_MODEL, "lora", "The LoRA of the previous stage, to train it further."),
        optional(LORA_MODEL, "control_lora", "The ControlNet's LoRA from the previous stage."),
    ]


def _held_out() -> io.Float.Input:
    return number(
        "held_out",
        HELD_OUT,
        0.0,
        0.5,
        0.01,
        "Share of the people (or of the pictures, if there are few people) that is held out for validation and "
        "preview.",
        optional=True,
    )


def _outputs() -> list:
    return [
        ADAPTER.Output(display_name="adapter", tooltip="For the next stage, Save FaceCDM Adapter and Apply FaceCDM."),
        LORA_MODEL.Output(
            display_name="lora",
            tooltip="The base model's LoRA, from stage 2 on; for core's Save LoRA Weights and Load LoRA Model.",
        ),
        LOSS_MAP.Output(display_name="loss_map", tooltip="The diffusion loss, for core's Plot Loss Graph."),
        io.Image.Output(display_name="loss_plot", tooltip="Every loss over the steps."),
        io.Image.Output(
            display_name="pictures",
            tooltip="Held-out people, generated with the trained weights; without a VAE, the loss plot.",
        ),
        io.String.Output(display_name="report", tooltip="What was done, the losses, and what was left out and why."),
        LORA_MODEL.Output(
            display_name="control_lora",
            tooltip="The ControlNet's LoRA, if one was trained; for Apply LoRA to ControlNet and core's Save LoRA "
            "Weights.",
        ),
    ]


class TrainingNode(io.ComfyNode):
    """A node that trains in the folder `run`."""

    @classmethod
    def validate_inputs(cls, run=None):
        return validity("run", run, check_filename)


class TrainStage(TrainingNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMTrainStage",
            display_name="Train FaceCDM Stage",
            category=CATEGORY,
            **aliases("train identity", "ipadapter training", "fine-tune"),
            description="Trains one of the three stages: broad, identity, fine. Chain three of them. A stopped "
            "stage resumes when queued again.",
            is_output_node=True,
            inputs=[
                *_shared_inputs(),
                io.Combo.Input("stage", options=list(STAGES), tooltip="The stage to train."),
                io.Int.Input(
                    "steps", default=0, min=0, max=10_000_000, tooltip="How many steps; 0: as the preset has it."
                ),
                *_common_inputs(),
                *_optional_inputs(),
                optional(
                    STAGE_SETTINGS, "settings", "From FaceCDM Stage Settings: the values that differ from the preset's."
                ),
                _held_out(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    @checked
    def execute(cls, preset, stage, steps, batch, seed, settings=None, **parts):
        values = {**_given(steps=steps, batch=batch), "seed": seed, **(settings or {})}
        return _train(cls, [_job(preset, STAGES.index(stage), values)], **parts)


class Train(TrainingNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMTrain",
            display_name="Train FaceCDM",
            category=CATEGORY,
            **aliases("train identity", "ipadapter training", "fine-tune", "consistent character"),
            description="Trains all three stages, one after the other: broad, identity, fine.",
            is_output_node=True,
            inputs=[
                *_shared_inputs(),
                number("length", 1.0, 0.0001, 100.0, 0.01, "Factor on the preset's steps: 0.5 trains half as long."),
                *_common_inputs(),
                *_optional_inputs(),
                optional(STAGE_SETTINGS, "settings", "From FaceCDM Stage Settings: for all three stages."),
                *(
                    optional(STAGE_SETTINGS, f"settings_{n}", f"For stage {n} alone; overrides settings.")
                    for n in (1, 2, 3)
                ),
                _held_out(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    @checked
    def execute(
        cls, preset, length, batch, seed, settings=None, settings_1=None, settings_2=None, settings_3=None, **parts
    ):
        jobs = []
        for stage, own in enumerate((settings_1, settings_2, settings_3)):
            steps = max(round(PRESETS[preset][stage].steps * length), 1)
            given = _given(steps=0 if length == 1 else steps, batch=batch)
            jobs.append(_job(preset, stage, {**given, "seed": seed, **(settings or {}), **(own or {})}))
        return _train(cls, jobs, **parts)


def _given(**values: int) -> dict[str, int]:
    return {name: value for name, value in values.items() if value}


def _job(preset_name: str, number: int, values: dict):
    """Make stage `number` of a preset, with the user's values."""
    from ..facecdm.training.checks import Job

    return Job(preset(preset_name)[number].with_settings(**values), frozenset(values))


def _train(
    cls,
    jobs: list,
    model,
    adapter,
    data_set,
    run,
    vae=None,
    face_analyzer=None,
    control_net=None,
    lora=None,
    control_lora=None,
    held_out=HELD_OUT,
) -> io.NodeOutput:
    from ..facecdm.hosts.comfy.training.open import open_denoiser
    from ..facecdm.training.chart import draw_losses
    from ..facecdm.training.checks import Inputs, Recogniser
    from ..facecdm.training.lora import Lora
    from ..facecdm.training.orchestrator import Training

    recogniser = face_analyzer and Recogniser(face_analyzer.files.recogniser, face_analyzer.recogniser)
    with torch.inference_mode(False), torch.enable_grad(), open_denoiser(model, vae, control_net) as denoiser:
        inputs = Inputs(denoiser, data_set, runs_folder() / check_filename(run), recogniser, held_out)
        loras = [Lora.from_tensors(tensors or {}) for tensors in (lora, control_lora)]
        training = Training(inputs, jobs, adapter, *loras)
        with _Bar(training.stages) as bar:
            result = training.run(bar)
    losses = [line["diffusion"] for line in result.history if "diffusion" in line]
    plot = _as_image(draw_losses(result.history))
    pictures = plot if result.pictures is None else result.pictures.movedim(1, -1)
    return output(
        result.adapter,
        result.lora.tensors(),
        {"loss": losses},
        plot,
        pictures,
        "\n".join(result.report).strip(),
        result.control.tensors(),
        warnings=result.notices,
        preview=ui.PreviewImage(plot, cls=cls),
    )


class _Bar:
    """Observer: ComfyUI's progress bar over all stages, with preview pictures, and a line in the console.

    After each step it raises if the user has interrupted.
    """

    def __init__(self, stages: list[Stage]):
        from comfy.utils import ProgressBar

        ends = list(accumulate(stage.steps for stage in stages))
        self._offsets = {stage.name: end - stage.steps for stage, end in zip(stages, ends)}
        self._total, self._bar, self._console = ends[-1], ProgressBar(ends[-1]), None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *exception) -> None:
        if self._console is not None:
            self._console.close()

    def location(self, step: int, steps: int, loss: float) -> None:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from tqdm.auto import tqdm

        if step == 1:
            self.__exit__()
            self._console = tqdm(total=steps, desc="location head")
        self._console.update()
        self._console.set_postfix_str(f"loss {loss:.3f}", refresh=False)
        self._bar.update_absolute(step, steps)
        throw_exception_if_processing_interrupted()

    def begin(self, trainer) -> None:
        from tqdm.auto import tqdm

        self.__exit__()
        self._console = tqdm(total=trainer.stage.steps, initial=trainer.step, desc=trainer.stage.name)

    def step(self, trainer, pictures) -> None:
        from comfy.model_management import throw_exception_if_processing_interrupted

        from ..facecdm.training.preview import side_by_side

        self._console.update()
        steps = [line for line in trainer.history[-2:] if "diffusion" in line]
        self._console.set_postfix_str(f"loss {steps[-1]['diffusion']:.4f}", refresh=False)
        preview = None if pictures is None else ("JPEG", side_by_side(pictures), 512)
        self._bar.update_absolute(self._offsets[trainer.stage.name] + trainer.step, self._total, preview)
        throw_exception_if_processing_interrupted()


def _as_image(picture):
    import numpy as np

    return torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255


NODES = [TrainStage, Train]
