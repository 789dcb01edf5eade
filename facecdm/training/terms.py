"""The losses of a stage, as its numbers ask for them."""

from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from ..errors import FaceCDMError
from . import losses
from .denoiser import Denoiser
from .source import Source
from .stages import Stage
from .step import Term

BANK = 4096  # the most people that a contrastive identity loss compares with
_fitted: WeakKeyDictionary[Source, losses.LinearRecogniser] = WeakKeyDictionary()


def terms_of(
    stage: Stage, data: Source, recogniser: Path | None, mean: Tensor | None, denoiser: Denoiser
) -> list[Term]:
    """Raises FaceCDMError where the identity loss is wanted and there is no recogniser's ONNX file, or the linear one
    and there are too few people."""
    diffusion = losses.DiffusionLoss(gamma=stage.min_snr)
    terms = [_term(diffusion)]
    if stage.bottleneck:
        terms.append(_term(losses.BottleneckLoss(), stage.bottleneck))
    if stage.identity:
        terms.append(
            _term(
                _identity(stage, data, recogniser, mean, denoiser.device),
                stage.identity,
                stage.identity_every,
                stage.identity_ramp,
            )
        )
    if stage.linear_identity:
        if data not in _fitted:  # once for all stages
            _fitted[data] = losses.LinearRecogniser.fit(denoiser, data)
        linear = _fitted[data].to(denoiser.device)
        terms.append(_term(losses.LinearIdentityLoss(linear), stage.linear_identity))
    if stage.localisation:
        terms.append(_term(losses.LocalisationLoss(), stage.localisation))
    if stage.alignment:
        terms.append(
            _term(
                losses.AlignmentLoss(layout=stage.alignment_layout / stage.alignment),
                stage.alignment,
                stage.alignment_every,
            )
        )
    if stage.background:
        terms.append(_term(losses.BackgroundLoss(), stage.background, stage.alignment_every))
    return terms


def _term(loss: losses.Loss, weight: float = 1.0, every: int = 1, ramp: int = 0) -> Term:
    needs = {need for need in ("outputs", "queries", "plain") if getattr(loss, f"needs_{need}")}
    return Term(loss.name, loss, weight, every, ramp, frozenset(needs))


def _identity(
    stage: Stage, data: Source, recogniser: Path | None, mean: Tensor | None, device: torch.device
) -> losses.Loss:
    if recogniser is None:
        raise FaceCDMError(
            f"the stage {stage.name!r} has an identity loss, and no recogniser was given: name "
            f"InsightFace's ONNX file that embedded the data set ({data.recogniser}), or set identity "
            "to 0"
        )
    bank = None
    if stage.contrast:
        every = max(len(data) // BANK, 1)
        chosen = list(range(0, len(data), every))[:BANK]
        bank = losses.Bank(
            data.features(chosen, vision=False)[0].to(device),
            torch.tensor([data.identity(i) for i in chosen], device=device),
        )
    settings = dict(
        recogniser=losses.ArcFace(recogniser).to(device),
        high=stage.identity_below,
        toward=stage.identity_toward,
        mean=None if mean is None else mean.to(device),
        bank=bank,
        contrast=stage.contrast,
    )
    if stage.identity_toward == "person":
        settings["persons"] = losses.persons_of(data, mean).to(device)
    if not stage.few_steps:
        return losses.IdentityLoss(**settings)
    return losses.FewStepIdentityLoss(
        steps=stage.few_steps,
        learnt=stage.few_steps_learnt,
        begin=stage.few_steps_from,
        guidance=stage.few_steps_guidance,
        **settings,
    )
