"""Train Stage, Train, and the settings of a stage."""

from pathlib import Path

from comfy_api.latest import io, ui

from ..facecdm.errors import FaceCDMError
from ..facecdm.files import check_filename
from ..facecdm.training.stages import PRESETS, Stage, preset
from .sockets import ADAPTER, DATA_SET, FACE_ANALYZER
from .stage_settings import STAGE_SETTINGS

CATEGORY = "FaceCDM/training"
HOME = "facecdm_training"  # below ComfyUI's output folder
LORA_MODEL, LOSS_MAP = io.Custom("LORA_MODEL"), io.Custom("LOSS_MAP")  # core's, of Train LoRA and its neighbours
STAGES = ("1 broad", "2 identity", "3 fine")


def home() -> Path:
    import folder_paths

    return Path(folder_paths.get_output_directory()) / HOME


def _shared_inputs() -> list:
    return [
        io.Model.Input(
            "model",
            tooltip="The base: SD1.5, SD2, SDXL, a fine-tune of theirs, or the demo model. It is "
            "trained as it is loaded, with the LoRAs patched into it.",
        ),
        ADAPTER.Input("adapter", tooltip="From New Adapter, Load Adapter, or the stage before."),
        DATA_SET.Input("data_set", tooltip="From Prepare Data Set."),
        io.String.Input(
            "run",
            default="my training",
            tooltip="Folder below output/facecdm_training for the state; one "
            "of that name goes on where it was stopped.",
        ),
        io.Combo.Input(
            "preset",
            options=list(PRESETS),
            default="one person",
            tooltip="Starting values: an adapter for many people, or for one person from some photos.",
        ),
    ]


def _common_inputs() -> list:
    return [
        io.Int.Input("batch", default=0, min=0, max=1024, tooltip="Pictures in a batch; 0: as the preset has it."),
        io.Int.Input(
            "seed",
            default=0,
            min=0,
            max=2**53,
            control_after_generate=False,
            tooltip="Of every decision left to chance: the same seed, the same training.",
        ),
    ]


def _optional_inputs() -> list:
    return [
        io.Vae.Input("vae", optional=True, tooltip="For the identity loss, and to show pictures while it trains."),
        FACE_ANALYZER.Input(
            "face_analyzer",
            optional=True,
            tooltip="For the identity loss: the one that the data set was prepared with.",
        ),
        io.ControlNet.Input(
            "control_net",
            optional=True,
            tooltip="A pose ControlNet, for data sets with pose pictures. It stays as it is; a LoRA "
            "of it can learn (control, in Stage Settings' train).",
        ),
        LORA_MODEL.Input("lora", optional=True, tooltip="From the stage before, to go on with."),
        LORA_MODEL.Input("control_lora", optional=True, tooltip="The ControlNet's LoRA from the stage before."),
    ]


def _outputs() -> list:
    return [
        ADAPTER.Output(display_name="adapter", tooltip="For the next stage, Save Adapter and Apply FaceCDM."),
        LORA_MODEL.Output(
            display_name="lora",
            tooltip="Of the U-Net's attention, from stage 2 on; for core's Save LoRA Weights and Load LoRA Model.",
        ),
        LOSS_MAP.Output(display_name="loss_map", tooltip="The diffusion loss, for core's Plot Loss Graph."),
        io.Image.Output(display_name="loss_plot", tooltip="Every loss over the steps."),
        io.Image.Output(
            display_name="pictures", tooltip="Held-out people drawn by what was learnt; without a VAE, the loss plot."
        ),
        io.String.Output(display_name="report", tooltip="What was done, the losses, and what was left out and why."),
        LORA_MODEL.Output(
            display_name="control_lora",
            tooltip="Of the ControlNet, where one was trained; for Apply "
            "LoRA to ControlNet, and core's Save LoRA Weights.",
        ),
    ]


class TrainStage(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMTrainStage",
            display_name="Train Stage",
            category=CATEGORY,
            description="One of the three stages: broad strokes, identity, fine details. Chain three of them. Stopped, "
            "it keeps what was learnt and goes on when queued again.",
            is_output_node=True,
            inputs=[
                *_shared_inputs(),
                io.Combo.Input("stage", options=list(STAGES), tooltip="Which of the three."),
                io.Int.Input(
                    "steps", default=0, min=0, max=10_000_000, tooltip="How many steps; 0: as the preset has it."
                ),
                *_common_inputs(),
                *_optional_inputs(),
                STAGE_SETTINGS.Input(
                    "settings",
                    optional=True,
                    tooltip="From Stage Settings: every value that shall not be the preset's.",
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, run=None, preset=None, stage=None):
        return _valid(run, preset) if stage in (None, *STAGES) else f"stage must be one of {', '.join(STAGES)}"

    @classmethod
    def execute(
        cls,
        model,
        adapter,
        data_set,
        run,
        preset,
        stage,
        steps,
        batch,
        seed,
        vae=None,
        face_analyzer=None,
        control_net=None,
        lora=None,
        settings=None,
        control_lora=None,
    ):
        number = STAGES.index(stage)
        jobs = [(number, {**_given(steps=steps, batch=batch), "seed": seed, **(settings or {})})]
        return _train(
            cls, model, adapter, data_set, run, preset, jobs, vae, face_analyzer, control_net, lora, control_lora
        )


class Train(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMTrain",
            display_name="Train",
            category=CATEGORY,
            description="All three stages, one after the other: broad strokes, identity, fine details.",
            is_output_node=True,
            inputs=[
                *_shared_inputs(),
                io.Float.Input(
                    "length",
                    default=1.0,
                    min=0.0001,
                    max=100.0,
                    step=0.01,
                    tooltip="Factor on the preset's steps: 0.5 trains half as long.",
                ),
                *_common_inputs(),
                *_optional_inputs(),
                STAGE_SETTINGS.Input("settings", optional=True, tooltip="From Stage Settings: for all three stages."),
                *(
                    STAGE_SETTINGS.Input(f"settings_{n}", optional=True, tooltip=f"For stage {n} alone; comes first.")
                    for n in (1, 2, 3)
                ),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def validate_inputs(cls, run=None, preset=None):
        return _valid(run, preset)

    @classmethod
    def execute(
        cls,
        model,
        adapter,
        data_set,
        run,
        preset,
        length,
        batch,
        seed,
        vae=None,
        face_analyzer=None,
        control_net=None,
        lora=None,
        settings=None,
        settings_1=None,
        settings_2=None,
        settings_3=None,
        control_lora=None,
    ):
        jobs = []
        for number, own in enumerate((settings_1, settings_2, settings_3)):
            steps = max(round(PRESETS[preset][number].steps * length), 1)
            given = _given(steps=0 if length == 1 else steps, batch=batch)
            jobs.append((number, {**given, "seed": seed, **(settings or {}), **(own or {})}))
        return _train(
            cls, model, adapter, data_set, run, preset, jobs, vae, face_analyzer, control_net, lora, control_lora
        )


def _valid(run: str | None, name: str | None) -> bool | str:
    try:
        if run is not None:
            check_filename(run)
        if name is not None:
            preset(name)
    except FaceCDMError as error:
        return str(error)
    return True


def _given(**values: int) -> dict[str, int]:
    return {name: value for name, value in values.items() if value}


def _train(
    cls,
    model,
    adapter,
    data_set,
    run,
    preset_name,
    jobs: list[tuple[int, dict]],
    vae,
    face_analyzer,
    control_net,
    lora,
    control_lora,
) -> io.NodeOutput:
    from ..facecdm.hosts.comfy.training.stage import Inputs, train_stage
    from ..facecdm.training.chart import draw_losses

    recogniser = face_analyzer.files.recogniser if face_analyzer is not None else None
    inputs = Inputs(
        model,
        data_set,
        home() / check_filename(run),
        vae,
        control_net,
        recogniser,
        face_analyzer.recogniser if face_analyzer is not None else "",
    )
    stages = [preset(preset_name)[number].but(**values) for number, values in jobs]
    lora, history, pictures, report = lora or {}, [], None, []
    with _Bar(sum(stage.steps for stage in stages)) as bar:
        for (_, values), stage in zip(jobs, stages):
            bar.begin(stage)
            done = train_stage(inputs, adapter, lora, stage, frozenset(values), bar, control_lora)
            adapter, lora, control_lora, pictures = done.adapter, done.lora, done.control_lora, done.pictures
            history += done.history
            report += [*done.report, ""]
    losses = [line["diffusion"] for line in history if "diffusion" in line]
    plot = _as_image(draw_losses(history))
    text = "\n".join(report).strip()
    return io.NodeOutput(
        adapter,
        lora,
        {"loss": losses},
        plot,
        plot if pictures is None else pictures,
        text,
        control_lora,
        ui=ui.PreviewImage(plot, cls=cls),
    )


class _Bar:
    """ComfyUI's progress bar over all stages, with pictures in it; a line in the console; an interrupt raises."""

    def __init__(self, steps: int):
        from comfy.utils import ProgressBar

        self._bar, self._total, self._before, self._console = ProgressBar(steps), steps, 0, None
        self._stage: Stage | None = None

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *exception) -> None:
        self._close()

    def _close(self) -> None:
        if self._console is not None:
            self._console.close()
            self._console = None

    def begin(self, stage: Stage) -> None:
        self._before += self._stage.steps if self._stage is not None else 0
        self._stage = stage
        self._close()

    def __call__(self, trainer, pictures) -> None:
        from comfy.model_management import throw_exception_if_processing_interrupted
        from tqdm.auto import tqdm

        if self._console is None:
            self._console = tqdm(total=trainer.stage.steps, initial=trainer.step - 1, desc=trainer.stage.name)
        self._console.update()
        steps = [line for line in trainer.history[-2:] if "diffusion" in line]
        self._console.set_postfix_str(f"loss {steps[-1]['diffusion']:.4f}", refresh=False)
        preview = None if pictures is None else ("JPEG", _strip(pictures), 512)
        self._bar.update_absolute(self._before + trainer.step, self._total, preview)
        throw_exception_if_processing_interrupted()


def _strip(pictures):
    """[N, H, W, 3] side by side."""
    from PIL import Image

    row = (pictures.permute(1, 0, 2, 3).flatten(1, 2) * 255).round().byte()
    return Image.fromarray(row.cpu().numpy())


def _as_image(picture):
    import numpy as np
    import torch

    return torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255


NODES = [TrainStage, Train]
