"""A plan: read, checked against the servers, turned into jobs.

plan.py    its keys: YAML, CSV, JSONL or the class Plan
rows.py    lists, ranges and files, multiplied and zipped into rows
folders.py which files a plan may read
targets.py short names → inputs of the workflow
uploads.py values → files to upload
naming.py  a file name for every job
values.py  one value against what a server declares of its input
nodes.py   a workflow against /object_info
check.py   first pass: everything that can be wrong
jobs.py    second pass: jobs and their prompts
"""

from .plan import Plan, RayPlan

__all__ = ["Plan", "RayPlan"]
