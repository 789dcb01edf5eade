"""The losses of a stage, made from its settings."""

from .losses import LossInputs
from .stages import Stage
from .step import Term


def check_losses(stage: Stage, inputs: LossInputs) -> None:
    """Raise FaceCDMError if an input of one of the stage's losses is missing."""
    for settings in stage.losses():
        settings.check_inputs(stage, inputs)


def terms_of(stage: Stage, inputs: LossInputs) -> list[Term]:
    """The terms of the stage's loss. Raises FaceCDMError like `check_losses`."""
    check_losses(stage, inputs)
    terms = []
    for settings in stage.losses():
        loss = settings.make(inputs)
        terms.append(Term(settings.name, loss, settings.weight, settings.every, settings.ramp, loss.needs))
    return terms
