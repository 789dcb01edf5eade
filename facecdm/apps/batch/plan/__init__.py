"""Read a plan, check it against the servers, and build its jobs.

plan.py    its keys: YAML, CSV, JSONL or the class Plan
rows.py    lists, ranges and files, multiplied and zipped into rows
folders.py the files that a plan may read
targets.py short names → inputs of the workflow
uploads.py values → files to upload
naming.py  a file name for every job
values.py  check one value against the server's declaration of its input
nodes.py   check a workflow against /object_info
check.py   first pass: find all mistakes
jobs.py    second pass: jobs and their prompts
"""

from .plan import Plan, RayPlan

__all__ = ["Plan", "RayPlan"]
