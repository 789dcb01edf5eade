"""How far the means of two arms differ by chance, because no two trainings of one arm are equal."""

from dataclasses import dataclass, field
from statistics import variance

from facecdm.evaluation.evaluate import Evaluation

from .arms import TRIPLET


@dataclass(frozen=True)
class Chance:
    """How far the means of two arms differ by chance between trainings, with 95 % probability.

    trainings  their number, by arm
    spread     measure → Student's t times the standard deviation between trainings of one arm, pooled over the arms
    """

    trainings: dict[str, int] = field(default_factory=dict)
    spread: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, seeds: list[Evaluation], trainings: dict[str, int]) -> "Chance":
        """`seeds` has one evaluation for each arm with several trainings."""
        from scipy.stats import t

        squares: dict[str, list[tuple[float, int]]] = {}
        for one in seeds:
            for name in one.summaries[0].values:
                means = [summary.values[name][0] for summary in one.summaries if name in summary.values]
                if len(means) > 1:
                    squares.setdefault(name, []).append((variance(means) * (len(means) - 1), len(means) - 1))
        spread = {}
        for name, own in squares.items():
            freedom = sum(count for _, count in own)
            spread[name] = float(t.ppf(0.975, freedom)) * (sum(square for square, _ in own) / freedom) ** 0.5
        return cls(dict(trainings), spread)

    def limits(self, trainings: int) -> dict[str, float]:
        """Measure → the largest difference by chance between the mean of so many trainings of an arm and the triplet's.
        The base model has no training."""
        parts = (1 / trainings if trainings else 0.0) + 1 / max(self.trainings.get(TRIPLET, 0), 1)
        return {name: value * parts**0.5 for name, value in self.spread.items()}
