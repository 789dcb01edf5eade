"""The data set: pictures in, encoded rows out."""

from .data_set import DataSet
from .pipeline import prepare
from .settings import Settings

__all__ = ["DataSet", "Settings", "prepare"]
