"""Results of a batch beside its images.

table.py    results.csv and its columns
best.py     the best images of each person and prompt
sheets.py   contact sheets
measure.py  identity similarity and detection of each image
"""
