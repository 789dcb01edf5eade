"""Hundreds of pictures through the API of one ComfyUI, of several, or of a Ray cluster: docs/batches.md.

plan.py      what a person writes: YAML, CSV, JSONL or this class
rows.py      lists, ranges and files of a plan, multiplied and zipped into rows
naming.py    a file name for every job
values.py    one value against what a server declares of its input
check.py     plan and workflow against /object_info
jobs.py      jobs that are ready to be queued
journal.py   what has been done, in SQLite
schedule.py  which job goes to which server
server.py    one server: its state, its references, one job on it
runner.py    all servers, until every job is settled
start.py     from a plan to the runner
command.py   the command line
measure.py   identity and detection of each picture
report.py    results.csv, contact sheets, the best of each person and prompt
display.py   progress in the terminal
ray_workers.py  ComfyUI on the nodes of a Ray cluster
"""

from .plan import Plan
from .start import run, run_async

__all__ = ["Plan", "run", "run_async"]
