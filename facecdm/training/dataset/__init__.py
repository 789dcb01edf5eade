"""Data sets: encoded pictures for the training. `pipeline.prepare` makes one, `data_set.DataSet` reads it."""
