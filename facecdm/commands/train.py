"""`python -m facecdm train config.yaml`, alone or under `accelerate launch -m`: run the three stages."""

import argparse
from pathlib import Path

from ..devices import use_threads
from ..errors import FaceCDMError, MissingPackage
from ..training import config as configuration
from ..training.stages import Stage


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("config", type=Path, help="a YAML file; docs/training.md explains its keys")
    parser.add_argument("--dry-run", action="store_true", help="check everything and show the plan, train nothing")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace an adapter and LoRA of another training that are in `out`"
    )


def main(arguments: argparse.Namespace) -> int:
    from ..hosts.diffusers.denoiser import open_base
    from ..training.session import Session

    config = configuration.read(arguments.config)
    use_threads(config.threads)
    if arguments.dry_run:
        for stage in config.plan():
            print(describe(stage))
    session = Session(
        config,
        lambda config, device: open_base(config.base, device, config.control),
        _accelerator(config),
        overwrite=arguments.overwrite,
    )
    if arguments.dry_run:
        print(session.describe())
        return 0
    if session.worker.count > 1:
        print(f"process {session.worker.rank + 1} of {session.worker.count}, sharing every batch", flush=True)
    session.run()
    return 0


def describe(stage: Stage) -> str:
    return (
        f"{stage.name}: {stage.steps} steps of {stage.batch} × {stage.accumulation}, rate {stage.learning_rate:g} "
        f"({stage.schedule}), trains {', '.join(stage.train)}; {' + '.join(loss.name for loss in stage.losses())}"
    )


def _accelerator(config):
    """accelerate's Accelerator for several processes or a tracker; None for one plain process."""
    import os

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    if processes == 1 and config.tracker is None:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingPackage("several processes and trackers need accelerate: pip install accelerate") from error
    import torch

    # Without a GPU, accelerate would let each process train separately.
    on_cpu = config.device == "cpu" or (processes > 1 and not torch.cuda.is_available())
    try:
        return Accelerator(cpu=on_cpu, log_with=config.tracker, project_dir=str(config.out))
    except (ValueError, ImportError) as error:
        raise FaceCDMError(f"tracker {config.tracker!r}: {error}") from error
