"""Stage Settings: every number of a training stage, each as the preset has it until it is set."""

from dataclasses import fields

from comfy_api.latest import io

from ..facecdm.errors import FaceCDMError
from ..facecdm.training.stages import CHOICES, GROUPS, Stage

STAGE_SETTINGS = io.Custom("FACECDM_STAGE_SETTINGS")
PRESET = "preset"
UNSET = -1

# setting → what it is; a leading number is the highest value of the widget
HELP = {
    "learning_rate": "How far each step goes.",
    "steps": "How many steps the stage has.",
    "batch": "Pictures in a batch.",
    "accumulation": "Batches whose gradients are summed before a step.",
    "gate_rate": "The gates' learning rate, as a multiple of the others'.",
    "schedule": "How the learning rate falls after its warm-up.",
    "warmup": "Steps over which the learning rate rises.",
    "rank": "Of the low-rank additions to the adapter's keys and values; 0: their weights learn whole.",
    "lora_rank": "Of the U-Net's LoRA (stage 2).",
    "lora_layers": "What the U-Net's LoRA adds to: its attentions, or feed-forward layers and convolutions, too "
    "(learns a face sooner, costs more time and memory).",
    "precision": "Of the U-Net's arithmetic; as the preset has it: the model's own, bf16 in place of fp16.",
    "checkpointing": "Compute the U-Net's insides twice in place of keeping them: a third slower, far less memory.",
    "ema": "Decay of the moving average that becomes the result (0.999 for long trainings); 0: none.",
    "weight_decay": "Pull of the weights towards zero.",
    "clip": "Largest norm of a step's gradient.",
    "drop_text": "Share of rows without their text, for classifier-free guidance.",
    "drop_face": "Share of rows without their face.",
    "drop_image": "Share of rows without the whole image.",
    "drop_all": "Share of rows without any of them.",
    "drop_pose": "Share of batches without the pose ControlNet.",
    "own_photo": "Share of rows whose reference is the very picture, where there are others: teaches copying.",
    "min_snr": "Min-SNR weighting's γ: noise levels count more evenly; 0: none.",
    "noise_low": "From here, of 1000,",
    "noise_high": "to here is the range of noise",
    "noise_share": "from which this share of the rows is drawn; the others from the rest.",
    "face_region": "Probability that a row's loss counts its face alone.",
    "face_window": "Share of steps that see a window of half the picture's side around the face, and no more: a "
    "quarter of the latents.",
    "bottleneck": "Weight of the loss that lets the face's narrow code be restored.",
    "identity": "Weight of the identity loss on the predicted picture.",
    "identity_below": "Rows with less noise than this, of 1000, have an identity loss.",
    "identity_every": "Steps from one identity loss to the next.",
    "identity_ramp": "Steps over which the identity loss' weight grows.",
    "identity_toward": "Whose embedding it wants: that of the picture itself, the mean of all pictures of its person, "
    "or that of the reference.",
    "few_steps": "The identity loss looks at the picture after so many sampling steps, in place of one; 0: one.",
    "few_steps_from": "They begin with the row's own noisy picture, or with pure noise, as a user's picture does.",
    "few_steps_guidance": "Classifier-free guidance of those steps, as the sampler's cfg; 1: none.",
    "few_steps_learnt": "Gradients go through the last so many of those steps.",
    "contrast": "Share of the identity loss that compares with other people.",
    "linear_identity": "Weight of the identity loss through a linear recogniser, which many people's data set is "
    "asked for: at every noise level.",
    "localisation": "Weight of the loss that keeps the face's attention in the face.",
    "alignment": "Weight of the loss that keeps the response to the text that of the model without a face.",
    "alignment_layout": "Weight of the same for the layout.",
    "alignment_every": "Steps from one alignment loss to the next.",
    "background": "Weight of the loss that leaves everything but the face as the model alone has it.",
    "save_every": "Steps from one checkpoint on disk to the next.",
    "validate_every": "Steps from one look at held-out pictures to the next.",
}


def _settings() -> list:
    """Fields of Stage that the node offers: the run's name, its seed and what learns have inputs of their own."""
    return [field for field in fields(Stage) if field.name not in ("name", "seed", "train")]


def _input(field):
    tip = f"{HELP[field.name]} "
    if field.name in CHOICES:
        return io.Combo.Input(field.name, options=[PRESET, *CHOICES[field.name]], default=PRESET, tooltip=tip)
    if field.type in (bool, "bool"):
        return io.Combo.Input(field.name, options=[PRESET, "on", "off"], default=PRESET, tooltip=tip)
    if field.type in (int, "int"):
        return io.Int.Input(field.name, default=UNSET, min=UNSET, max=10_000_000, tooltip=f"{tip}−1: as the preset.")
    return io.Float.Input(
        field.name, default=UNSET, min=UNSET, max=1000.0, step=1e-7, round=False, tooltip=f"{tip}−1: as the preset."
    )


class StageSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMStageSettings",
            display_name="Stage Settings",
            category="FaceCDM/training",
            description="Every number of a training stage. What you leave at −1 or preset stays as the preset has it.",
            inputs=[
                io.String.Input(
                    "train",
                    default="",
                    tooltip=f"What learns, with commas, of {', '.join(GROUPS)}; empty: as the preset.",
                ),
                *(_input(field) for field in _settings()),
                STAGE_SETTINGS.Input("settings", optional=True, tooltip="Other settings, which these add to."),
            ],
            outputs=[STAGE_SETTINGS.Output(display_name="settings", tooltip="For Train Stage or Train.")],
        )

    @classmethod
    def validate_inputs(
        cls,
        train="",
        schedule=PRESET,
        precision=PRESET,
        checkpointing=PRESET,
        lora_layers=PRESET,
        identity_toward=PRESET,
        few_steps_from=PRESET,
    ):
        for name, value in (
            ("schedule", schedule),
            ("precision", precision),
            ("checkpointing", checkpointing),
            ("lora_layers", lora_layers),
            ("identity_toward", identity_toward),
            ("few_steps_from", few_steps_from),
        ):
            known = CHOICES.get(name, ("on", "off"))
            if value not in (None, PRESET, *known):
                return f"{name} must be one of {', '.join((PRESET, *known))}; got {value!r}"
        try:
            chosen_settings({"train": train or ""})
        except FaceCDMError as error:
            return str(error)
        return True

    @classmethod
    def execute(cls, settings=None, **values):
        return io.NodeOutput({**(settings or {}), **chosen_settings(values)})


def chosen_settings(values: dict) -> dict:
    """What of the node's values was set, checked. Raises FaceCDMError for a value out of its range."""
    chosen = {
        name: value == "on" if value in ("on", "off") else value
        for name, value in values.items()
        if name != "train" and value not in (PRESET, UNSET)
    }
    groups = tuple(part.strip() for part in values.get("train", "").split(",") if part.strip())
    if groups:
        chosen["train"] = groups
    Stage().but(**{name: value for name, value in chosen.items() if name not in ("noise_low", "noise_high")})
    return chosen


NODES = [StageSettings]
