"""The stages in order, and the log of what they run."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from shared import ROOT

from facecdm.demo import paths

from . import commands
from .commands import Command, Work
from .configurations import write
from .files import begin_adapter, halve, small_world, write_workflow
from .plan import Plan

# Where the face will be: found by the adapter, given, or given with the pose ControlNet.
LOCATIONS = {"found": (), "location": ("--with-location",), "pose": ("--pose",)}


@dataclass(frozen=True)
class Stage:
    name: str
    work: tuple[Work, ...]


def stages(plan: Plan) -> list[Stage]:
    demo, weights = partial(commands.demo, plan), plan.weights / paths.MODEL.name
    portraits = commands.portraits(plan, plan.run / "portraits", "--workflow", str(plan.run / "portrait.json"))
    return [
        *([Stage("world", (partial(small_world, plan),))] if plan.how.smoke else []),
        Stage("base", (demo("train", "unet"),)),
        Stage("decoder", (demo("train", "decoder"), demo("train", "export"))),
        Stage("pose", (commands.pose(plan),)),
        Stage("judge", () if plan.how.judge else (commands.train_judge(plan),)),
        Stage("curve", (partial(commands.curve, plan),)),
        Stage("base-bars", (commands.base_bars(plan, weights),)),
        Stage("yaw", (commands.yaw(plan),)),
        Stage("data", (commands.data_set(plan, plan.world, "data", "--splits", "train", "wide"),)),
        *([Stage("begin", (partial(begin_adapter, plan),))] if plan.begun_adapter else []),
        Stage("broad", (partial(write, plan, "broad"), commands.training(plan, "broad"))),
        Stage("drawn", (partial(write, plan, "drawn"), commands.training(plan, "drawn"))),
        Stage("half", (partial(halve, plan),)),
        Stage("portraits", (partial(write_workflow, plan), portraits)),
        *(Stage(f"bars-{name}", (commands.identity_bars(plan, name, *more),)) for name, more in LOCATIONS.items()),
        Stage("one-person", commands.one_person(plan)),
    ]


def show(plan: Plan) -> None:
    """Print the commands."""
    for stage in stages(plan):
        print(f"\n# {stage.name}")
        for work in stage.work:
            print(f"({work.func.__doc__})" if isinstance(work, partial) else f"python {' '.join(work)}")


def run(plan: Plan) -> None:
    """Run the stages that are not done yet, or those that were asked for. Raises SystemExit."""
    done = plan.run / "done"
    done.mkdir(parents=True, exist_ok=True)
    for stage in stages(plan):
        marker = done / stage.name
        if stage.name not in plan.how.only if plan.how.only else marker.exists():
            continue
        print(f"{time.strftime('%H:%M:%S')} {stage.name}", flush=True)
        began = _clock()
        for work in stage.work:
            for command in (work() or []) if isinstance(work, partial) else [work]:
                execute(plan, stage, command)
        marker.write_text(_since(began) + "\n")


def execute(plan: Plan, stage: Stage, command: Command) -> None:
    """Run a command of this Python; its output goes to the stage's log."""
    log = plan.run / "logs" / f"{stage.name}.log"
    log.parent.mkdir(exist_ok=True)
    began = _clock()
    with log.open("a") as file:
        file.write(f"$ python {' '.join(command)}\n")
        file.flush()
        environment = os.environ | {
            "FACECDM_DEMO_WEIGHTS": str(plan.weights),
            "OMP_NUM_THREADS": "1" if "torch.distributed.run" in command else str(plan.how.threads),
        }
        code = subprocess.run(
            [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
        ).returncode
        file.write(f"# {_since(began)}, exit code {code}\n")
    # A benchmark exits with 1 if a target is missed, which is no reason to stop.
    if code and not (command[0].startswith("benchmarks") and _measures_written(command)):
        raise SystemExit(f"{stage.name} failed (exit code {code}): see {log}")


def _measures_written(command: Command) -> bool:
    out = Path(command[command.index("--out") + 1])
    return out.suffix == ".json" and out.exists()


def _clock() -> tuple[float, float]:
    """Seconds on the clock, and of the processor by finished commands."""
    used = os.times()
    return time.time(), used.children_user + used.children_system


def _since(began: tuple[float, float]) -> str:
    seconds, used = (now - before for now, before in zip(_clock(), began))
    return f"{seconds:.0f} s, {used:.0f} s of the processor"
