"""The tests' data set of random numbers, which benchmarks/training.py trains on as well."""

import inspect

import pytest
from lab import TinySource

from facecdm.training.source import Source


@pytest.mark.parametrize("name", ["__len__", "latent_shape", "load", "features", "identity", "references"])
def test_the_tests_data_set_has_the_methods_of_a_source(name):
    given, wanted = (inspect.signature(getattr(kind, name)).parameters for kind in (TinySource, Source))
    assert list(given) == list(wanted)


def test_the_tests_data_set_has_the_fields_of_a_source():
    data = TinySource()
    assert [name for name in inspect.get_annotations(Source) if not hasattr(data, name)] == []
    assert data.mean_face.shape == data.faces[0].shape
