"""Memory of a ComfyUI with this pack over 500 small jobs, after job 50 and after the last.

    python benchmarks/batch_soak.py --comfyui DIR --base DIR [--jobs 500]

Each job is the shipped portrait workflow (demo model, face analyzer, adapter) at 2 steps with its own seed. Memory is
the median of the process' resident set over ten jobs.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from facecdm.apps.batch.execution.display import Display  # noqa: E402
from facecdm.apps.batch.plan import Plan  # noqa: E402
from facecdm.apps.batch.start import run  # noqa: E402
from facecdm.apps.portrait import WORKFLOW  # noqa: E402
from facecdm.apps.references import FACEWORLD_REFERENCE  # noqa: E402
from facecdm.comfy_api.server import LocalServer, link_pack  # noqa: E402

FIRST, AROUND = 50, 10


class Watch(Display):
    """Also records the server's memory after every job, in MiB."""

    def __init__(self, pid: int):
        import psutil

        super().__init__()
        self.process, self.memory = psutil.Process(pid), []

    def done(self, task, pictures):
        super().done(task, pictures)
        self.memory.append(self.process.memory_info().rss / 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True, help="its base directory, with models/insightface")
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--gpu", action="store_true")
    options = parser.parse_args()
    link_pack(ROOT, options.base.absolute())
    with (
        tempfile.TemporaryDirectory() as folder,
        LocalServer(
            options.comfyui.absolute(),
            options.base,
            cpu=not options.gpu,
            arguments=(f"--output-directory={folder}/server",),
            log=Path(folder, "server.log"),
        ) as server,
    ):
        watch, started = Watch(server.process.pid), time.monotonic()
        plan = Plan.make(
            {
                "workflow": json.loads(WORKFLOW.read_text(encoding="utf-8")),
                "servers": server.address,
                "output": Path(folder, "out"),
                "inputs": {"person": "Reference.image", "seed": "KSampler.seed", "steps": "KSampler.steps"},
                "jobs": [
                    {"person": str(FACEWORLD_REFERENCE), "steps": 2},
                    {"seed": {"from": 1, "count": options.jobs}},
                ],
            },
            files_from=[FACEWORLD_REFERENCE.parent],
        )
        summary = run(plan, display=watch)
        seconds = time.monotonic() - started
    print(f"{summary.done} of {summary.jobs} jobs in {seconds:.0f} s, {60 * summary.done / seconds:.1f} pictures/min\n")
    print("| after job | resident MiB |\n|---|---|")
    marks = range(FIRST, len(watch.memory) + 1, FIRST)
    at = {mark: median(watch.memory[mark - AROUND : mark]) for mark in marks}
    print("\n".join(f"| {mark} | {memory:.1f} |" for mark, memory in at.items()))
    print(f"\nfrom job {FIRST} to job {max(at)}: {100 * (at[max(at)] / at[FIRST] - 1):+.2f} %")


if __name__ == "__main__":
    main()
