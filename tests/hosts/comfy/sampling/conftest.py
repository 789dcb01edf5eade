"""Adapters for the small SD1.5, with random weights and open gates."""

import pytest
from clones import clones  # noqa: F401
from twins import new_adapter, stir


@pytest.fixture(scope="session")
def adapter(sd15):
    from facecdm.hosts.comfy.unet import layer_map

    return stir(new_adapter(layer_map(sd15.model)))


@pytest.fixture(scope="session")
def spatial_adapter(sd15):
    """An adapter that is conditioned on face location."""
    from facecdm.hosts.comfy.unet import layer_map

    return stir(new_adapter(layer_map(sd15.model), spatial_tokens=True))
