"""Make hundreds of images on one or more ComfyUI servers or a Ray cluster: docs/batches.md.

command.py  the command line
start.py    from a plan to running servers
errors.py   exceptions
plan/       read a plan, check it against the servers, build its jobs
execution/  servers, the journal, the schedule
results/    results.csv, contact sheets, the best images
"""

from .plan import Plan
from .start import run, run_async

__all__ = ["Plan", "run", "run_async"]
