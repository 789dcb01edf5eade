"""A batch at work.

runner.py       all servers, until every job is settled
server.py       one server: its state, its uploads, one job on it
schedule.py     which job goes to which server
journal.py      what has been done, in SQLite
display.py      progress in the terminal
ray_workers.py  ComfyUI on the nodes of a Ray cluster
"""
