"""Convert shares of the sampling to noise levels when it starts, as ComfyUI does.

A node after Apply FaceCDM may change the noise schedule (ModelSamplingFlux, ModelSamplingAuraFlow and others).
"""

from dataclasses import dataclass, replace

import torch

from ....adapter.gates import Schedule
from ....adapter.person import Person


@dataclass(frozen=True, eq=False)
class ScheduledPerson(Person):
    """A person whose times are shares of the sampling. Before it starts, `sigma_start`, `sigma_end` and the streams'
    schedules are not set.

    start_at    share of the sampling, 0…1, after which the person begins to act
    end_at      share after which the person no longer acts
    over_steps  factors evenly spaced over the sampling, of every stream
    """

    start_at: float = 0.0
    end_at: float = 1.0
    over_steps: tuple[float, ...] = (1.0,)

    def in_sampling(self, model_sampling) -> "ScheduledPerson":
        """The same person with the noise levels of `model_sampling`, the noise schedule of ComfyUI's model."""
        factors = schedule(model_sampling, self.over_steps)
        return replace(
            self,
            settings={name: replace(setting, schedule=factors) for name, setting in self.settings.items()},
            sigma_start=sigma_at(model_sampling, self.start_at),
            sigma_end=sigma_at(model_sampling, self.end_at) if self.end_at < 1 else 0.0,
        )


def schedule(model_sampling, values: tuple[float, ...]) -> Schedule | None:
    """Factors evenly spaced over the sampling, as a function of the noise level; None if all are 1."""
    if len(set(values)) == 1 and values[0] == 1:
        return None
    shares = torch.linspace(0, 1, max(len(values) - 1, 1) * 8 + 1)
    values = values if len(values) > 1 else values * 2
    at = shares * (len(values) - 1)
    low = at.floor().clamp(max=len(values) - 2).long()
    points = torch.tensor(values)
    sigmas = torch.tensor([float(model_sampling.percent_to_sigma(float(share))) for share in shares])
    ends = (float(model_sampling.sigma_min), float(model_sampling.sigma_max))
    return Schedule(sigmas.clamp(*ends), points[low] + (at - low) * (points[low + 1] - points[low]))


def sigma_at(model_sampling, percent: float) -> float:
    """The noise level after the share `percent` (0…1) of the sampling; infinity at 0."""
    return model_sampling.percent_to_sigma(percent) if percent > 0 else float("inf")
