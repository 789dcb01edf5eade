"""Talk to ComfyUI servers: start one, edit a workflow, queue it, wait, fetch what it made.

server.py    a ComfyUI process on this machine
client.py    the API of one server
workflow.py  API-format workflows, edited by node title
history.py   what a server says about a finished job
names.py     file names from elsewhere, made safe
portrait.py  the quick start's portraits
sheet.py     contact sheets
"""
