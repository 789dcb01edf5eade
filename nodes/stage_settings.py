"""FaceCDM Stage Settings: every setting of a training stage. Unset ones keep the preset's values."""

from dataclasses import Field, fields

from comfy_api.latest import io

from ..facecdm.training.settings import rule
from ..facecdm.training.stages import GROUPS, Stage
from .checks import checked, validity
from .inputs import optional
from .new_fields import aliases

STAGE_SETTINGS = io.Custom("FACECDM_STAGE_SETTINGS")
PRESET = "preset"
UNSET = -1


def _settings() -> list[Field]:
    """List the fields of Stage that the node offers; the name and the seed are inputs of Train Stage and Train."""
    return [field for field in fields(Stage) if rule(field)]


def _input(field: Field):
    own = rule(field)
    options = own.choices or (("on", "off") if field.type is bool else ())
    if options:
        return io.Combo.Input(field.name, options=[PRESET, *options], default=PRESET, tooltip=own.help)
    tooltip, high = f"{own.help} −1: as the preset.", own.high
    if field.type is int:
        return io.Int.Input(field.name, default=UNSET, min=UNSET, max=int(high or 10_000_000), tooltip=tooltip)
    return io.Float.Input(
        field.name, default=UNSET, min=UNSET, max=high or 1000.0, step=1e-7, round=False, tooltip=tooltip
    )


class StageSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCDMStageSettings",
            display_name="FaceCDM Stage Settings",
            category="FaceCDM/training",
            **aliases("training settings", "hyperparameters"),
            description="Every setting of a training stage. Inputs that stay at −1, preset or empty keep the preset's "
            "value.",
            inputs=[
                io.String.Input(
                    "train",
                    default="",
                    tooltip=f"What is trained, separated by commas: any of {', '.join(GROUPS)}; empty: as the preset.",
                ),
                *(_input(field) for field in _settings()),
                optional(STAGE_SETTINGS, "settings", "From another FaceCDM Stage Settings; values set here win."),
            ],
            outputs=[STAGE_SETTINGS.Output(display_name="settings", tooltip="For Train FaceCDM (Stage).")],
        )

    @classmethod
    def validate_inputs(cls, train=""):
        return validity("train", train, lambda text: chosen_settings({"train": text}))

    @classmethod
    @checked
    def execute(cls, settings=None, **values):
        return io.NodeOutput({**(settings or {}), **chosen_settings(values)})


def chosen_settings(values: dict) -> dict:
    """Select the values that were set. Raises FaceCDMError if one is out of range."""
    chosen = {
        name: value == "on" if value in ("on", "off") else value
        for name, value in values.items()
        if name != "train" and value not in (PRESET, UNSET)
    }
    groups = tuple(part.strip() for part in values.get("train", "").split(",") if part.strip())
    if groups:
        chosen["train"] = groups
    Stage().with_settings(**{name: value for name, value in chosen.items() if name not in ("noise_low", "noise_high")})
    return chosen


NODES = [StageSettings]
