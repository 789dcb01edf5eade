"""Model files: a catalogue with sources and folders, the files that a workflow needs, and downloads.

model_file.py  an entry of the table: links, folder, size, licence
catalogue.py   the one table of files
needs.py       files that a workflow, a family or a face pack needs; missing files
download.py    downloads one file or archive
command.py     `python -m facecdm get`
"""
