"""A client for ComfyUI servers; it needs neither ComfyUI nor torch, and knows no application.

server.py    a ComfyUI process on this machine: start, stop
client.py    the API of one server: upload, submit, wait, fetch
workflow.py  workflows in API format, edited by node title
history.py   a finished job's history entry: files, errors
names.py     file names and texts from elsewhere, made safe
errors.py    exceptions
"""
