"""Model files: which there are, where they come from, which folder they go into, and what a workflow needs.

catalogue.py  the one table of files
needs.py      the files of a workflow, a family or a face pack; what is missing
download.py   one file or archive, onto the disk
command.py    `python -m facecdm get`
"""
