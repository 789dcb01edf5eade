"""The progress bar of a stage: steps, steps per second, loss, time left."""

from ..errors import MissingPackage
from .stages import Stage


class Progress:
    """A progress bar (rich) over the steps of a stage, starting at step `done`."""

    def __init__(self, stage: Stage, done: int, quiet: bool = False):
        try:
            from rich import progress
        except ImportError as error:
            raise MissingPackage("training from a shell shows its progress with rich: pip install rich") from error

        class Speed(progress.ProgressColumn):
            def render(self, task):
                return f"{task.speed:.2f} it/s" if task.speed else "– it/s"

        self._bar = progress.Progress(
            "{task.description}",
            progress.BarColumn(),
            progress.MofNCompleteColumn(),
            Speed(),
            "loss {task.fields[loss]}",
            progress.TimeRemainingColumn(),
            disable=quiet,
            refresh_per_second=2,
        )
        self._task = self._bar.add_task(stage.name, total=stage.steps, completed=done, loss="–")
        self._mean: float | None = None

    def __enter__(self) -> "Progress":
        self._bar.start()
        return self

    def __exit__(self, *_) -> None:
        self._bar.stop()

    def __call__(self, step: int, history: list[dict]) -> None:
        loss = next((line["diffusion"] for line in reversed(history) if "diffusion" in line), None)
        if loss is not None:
            self._mean = loss if self._mean is None else 0.95 * self._mean + 0.05 * loss
        self._bar.update(self._task, completed=step, loss="–" if self._mean is None else f"{self._mean:.4f}")
