"""`python -m facecdm train-location`: give an adapter a head that locates the face during sampling."""

import argparse
import tempfile
from pathlib import Path

from ..devices import check_device, use_threads
from ..errors import FaceCDMError
from ..files import check_filename, writing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("adapter", type=Path, help="a FaceCDM adapter with spatial tokens (spatial_tokens: true)")
    add("--data", type=Path, required=True, help="a data set of `python -m facecdm dataset`, for the same base model")
    add("--base", default="demo", help="demo (default), or a diffusers model folder")
    add("--out", type=Path, required=True, help="the folder of the new adapter")
    add("--name", help="its file name without .safetensors (default: that of ADAPTER)")
    add("--steps", type=int, default=1000)
    add("--batch", type=int, default=64)
    add("--call", type=int, default=0, help="pictures per call of the base model, to save memory (default: all)")
    add("--rate", type=float, default=3e-3, help="learning rate")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    add("--device", help="cuda or cpu (default: the GPU, if there is one)")
    add("--overwrite", action="store_true", help="replace a file of that name")


def main(arguments: argparse.Namespace) -> int:
    from ..adapter.native import load_adapter, save_adapter
    from ..hosts.diffusers.denoiser import open_base
    from ..training.checks import check_adapter
    from ..training.dataset.data_set import DataSet
    from ..training.location import LocationPlan, train_location_head, with_location_head

    plan = LocationPlan(
        arguments.steps, arguments.batch, learning_rate=arguments.rate, seed=arguments.seed, call=arguments.call
    )
    name = check_filename(arguments.name or arguments.adapter.stem)
    _check_folder(arguments.out)
    use_threads(arguments.threads)
    adapter = load_adapter(arguments.adapter)
    if not getattr(adapter.config, "spatial_tokens", False):
        raise FaceCDMError(
            f"{arguments.adapter.name} has no spatial tokens, so the face location has no effect on it; "
            "train an adapter with a square number of face tokens (docs/training.md)"
        )
    denoiser = open_base(arguments.base, check_device(arguments.device))
    if adapter.config.layer_map != denoiser.layer_map:
        raise FaceCDMError(f"{arguments.adapter.name} was made for another base model than {arguments.base}")
    data = DataSet(arguments.data)
    check_adapter(adapter, denoiser, data)
    made = with_location_head(adapter, train_location_head(denoiser, data, plan, _printed(plan.steps)))
    print(save_adapter(made, arguments.out, name, arguments.overwrite, {"location_steps": str(plan.steps)}))
    return 0


def _check_folder(folder: Path) -> None:
    """Make the folder and try to write into it. Raises FaceCDMError."""
    with writing(f"the adapter could not be written into {folder}"):
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()


def _printed(steps: int, every: int = 50):
    """A report that prints the mean loss after every 50 steps."""
    losses = []

    def report(step: int, loss: float) -> None:
        losses.append(loss)
        if step % every == 0 or step == steps:
            print(f"step {step} of {steps}: loss {sum(losses) / len(losses):.3f}", flush=True)
            losses.clear()

    return report
