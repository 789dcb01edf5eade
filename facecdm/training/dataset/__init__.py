"""The data set: pictures in, encoded rows out."""

from .data_set import DataSet, Features
from .prepare import prepare
from .settings import Settings

__all__ = ["DataSet", "Features", "Settings", "prepare"]
