"""The loss plot of a stage."""

from pathlib import Path

import numpy as np

SMOOTH = 0.95  # of the moving average that is drawn over the raw values
HIDDEN = ("step", "gradient")


def draw(history: list[dict], path: Path, title: str) -> None:
    """Every loss of the history over the steps, one panel each, as a PNG or JPEG; validation beside the diffusion."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(name for line in history for name in line if name not in HIDDEN))
    panels = [name for name in names if not name.startswith("validation")] or ["diffusion"]
    figure = Figure(figsize=(4.2 * len(panels), 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title)
    for axis, name in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels):
        _line(axis, history, name, faint=True)
        if name == "diffusion":
            for other in names:
                if other.startswith("validation"):
                    _line(axis, history, other, faint=False)
            axis.legend(fontsize=7)
        axis.set(title=name, xlabel="step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


def _line(axis, history: list[dict], name: str, faint: bool) -> None:
    points = [(line["step"], line[name]) for line in history if name in line]
    if not points:
        return
    steps, values = (np.array(column, dtype=float) for column in zip(*points))
    if faint:
        axis.plot(steps, values, alpha=0.25, linewidth=0.8)
        values = smooth(values)
    axis.plot(steps, values, label=name, linewidth=1.5)


def smooth(values: np.ndarray) -> np.ndarray:
    """Exponential moving average without the bias of its start."""
    mean = weight = 0.0
    result = np.empty_like(values)
    for place, value in enumerate(values):
        mean, weight = SMOOTH * mean + (1 - SMOOTH) * value, SMOOTH * weight + 1 - SMOOTH
        result[place] = mean / weight
    return result
