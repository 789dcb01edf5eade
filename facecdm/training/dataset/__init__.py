"""The data set: pictures in, encoded rows out. `pipeline.prepare` makes one, `data_set.DataSet` reads it."""
