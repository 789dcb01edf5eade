"""A client for ComfyUI servers. It needs neither ComfyUI nor torch, and depends on no application.

server.py    a ComfyUI process on this machine: start, stop
client.py    the API of one server: upload, submit, wait, fetch
workflow.py  workflows in API format, edited by node title
history.py   a finished job's history entry: files, errors
names.py     sanitised file names and texts
errors.py    exceptions
"""
