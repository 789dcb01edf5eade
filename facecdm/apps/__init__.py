"""Applications on the ComfyUI client (comfy_api).

portrait.py    portraits of a few people, and a contact sheet
gallery.py     variants of the shipped workflows, on one sheet
batch/         hundreds of images from a plan, on several servers
serving.py     the server that portrait and gallery use: options, start, stop
jobs.py        queue one image, wait for it, write and measure it
similarity.py  identity similarity of an image to a reference
references.py  reference images
sheet.py       contact sheets
progress.py    progress in the terminal
"""
