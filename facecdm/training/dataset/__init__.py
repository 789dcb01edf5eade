"""Data sets: encoded pictures for training. `pipeline.prepare` makes one, `data_set.DataSet` reads it."""
