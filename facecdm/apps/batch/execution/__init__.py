"""Execution of a batch.

runner.py       runs all servers until every job is done or set aside
server.py       one server: its state, its uploads, one job on it
schedule.py     which job goes to which server
journal.py      state of all jobs and files, in SQLite
display.py      progress in the terminal
ray_workers.py  ComfyUI on the nodes of a Ray cluster
"""
