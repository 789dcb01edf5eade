"""`python -m facecdm batch PLAN`: see docs/batches.md."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from ...comfy_api.names import one_line
from .execution.journal import recorded_jobs
from .plan.check import check
from .plan.jobs import build
from .plan.plan import Plan
from .start import ask_all, connected, run


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("plan", type=Path, metavar="PLAN", help="a YAML file; or a CSV or JSONL file with --workflow and --server")
    add("--workflow", type=Path, metavar="JSON", help="in API format (default: the plan's)")
    add("--server", action="append", metavar="ADDRESS", help="host:port; repeatable (default: the plan's)")
    add("--output", type=Path, metavar="DIR", help="output folder (default: the plan's, else output/batch beside it)")
    add("--files-from", type=Path, action="append", metavar="DIR", help="a folder outside the plan's from which it may "
        "read and upload files; repeatable")  # fmt: skip
    add("--resume", action="store_true", help="continue the batch in the output folder")
    add("--retry-failed", action="store_true", help="with --resume: also jobs that were set aside")
    add("--check", action="store_true", help="only list the mistakes, or what would be made")
    add(
        "--keep-best",
        type=int,
        metavar="N",
        help="pictures that stay for each person and prompt",
    )
    add("--base", type=Path, metavar="DIR", help="folder whose models/insightface measures identity similarity")
    add("--pack", metavar="NAME", help="face pack that measures it (default: buffalo_l if it is there, else another "
        "that is)")  # fmt: skip


def main(options: argparse.Namespace) -> int:
    """Exit code: 0 if every job has its result, 1 if some were set aside."""
    plan = Plan.load(options.plan, options.files_from, **changed(options))
    if options.check:
        return show(plan)
    try:
        summary = run(plan, options.resume or options.retry_failed, options.retry_failed)
    except KeyboardInterrupt:
        print("Jobs that are not done wait; continue with --resume.", file=sys.stderr)
        raise
    print(f"{summary.done} of {summary.jobs} jobs are done: {summary.folder} (results.csv, sheets)")
    for number, message in list(summary.set_aside.items())[:20]:
        print(one_line(f"  job {number} is set aside: {message}"), file=sys.stderr)
    if summary.set_aside:
        print(f"  {len(summary.set_aside)} set aside in all; --retry-failed tries them again", file=sys.stderr)
    return int(not summary.ok)


def changed(options: argparse.Namespace) -> dict[str, Any]:
    """Keys of the plan that the command line replaces. Relative paths start at the current folder."""
    keys = {
        "workflow": options.workflow and str(options.workflow.absolute()),
        "servers": options.server,
        "output": options.output and options.output.absolute(),
        "keep_best": options.keep_best,
        "base": options.base and options.base.absolute(),
        "pack": options.pack,
    }
    given = {name: value for name, value in keys.items() if value is not None}
    return {**given, "ray": None} if options.server else given


def show(plan: Plan) -> int:
    """Print the jobs of a plan. Exit code: 1 if a file cannot be used. Raises PlanMistake."""

    async def ask():
        async with connected(plan) as servers:
            return await ask_all(servers)

    batch = build(check(plan, asyncio.run(ask()), recorded_jobs(plan.at(plan.output))))
    problems = [file.problem for file in batch.files.values() if file.problem]
    print(f"{len(batch.jobs)} jobs, {len(batch.files) - len(problems)} files to upload; nothing was queued")
    for job in batch.jobs[:10]:
        print(one_line(f"  {job.name}"))
    if len(batch.jobs) > 10:
        print(f"  … and {len(batch.jobs) - 10} more")
    for problem in problems:
        print(one_line(f"  {problem}; its jobs will be set aside"), file=sys.stderr)
    return int(bool(problems))
