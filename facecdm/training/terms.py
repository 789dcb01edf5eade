"""The losses of a stage, as its settings ask for them."""

from .losses import LossInputs
from .stages import Stage
from .step import Term


def check_losses(stage: Stage, inputs: LossInputs) -> None:
    """Raises FaceCDMError where a loss of the stage lacks something."""
    for settings in stage.losses():
        settings.check_inputs(stage, inputs)


def terms_of(stage: Stage, inputs: LossInputs) -> list[Term]:
    """The terms of the stage's loss. Raises FaceCDMError, as `check_losses`."""
    check_losses(stage, inputs)
    terms = []
    for settings in stage.losses():
        loss = settings.make(inputs)
        terms.append(Term(settings.name, loss, settings.weight, settings.every, settings.ramp, loss.needs))
    return terms
