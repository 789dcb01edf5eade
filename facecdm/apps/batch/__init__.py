"""Hundreds of images through the API of one ComfyUI, of several, or of a Ray cluster: docs/batches.md.

command.py  the command line
start.py    from a plan to running servers
errors.py   exceptions
plan/       what a person writes, checked against the servers, as jobs
execution/  servers, the journal, the schedule
results/    results.csv, contact sheets, the best images
"""

from .plan import Plan
from .start import run, run_async

__all__ = ["Plan", "run", "run_async"]
