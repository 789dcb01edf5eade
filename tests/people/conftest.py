"""Small base models for people in regions; see tests/support/twins.py."""

import pytest
from twins import SMALL_SD15, make_twins, new_adapter, stir


@pytest.fixture(scope="session")
def sd15(in_comfy):
    """A MODEL."""
    return make_twins(SMALL_SD15).model


@pytest.fixture(scope="session")
def adapter(sd15):
    """As if trained: every gate is open."""
    from facecdm.hosts.comfy.unet import layer_map

    return stir(new_adapter(layer_map(sd15)))
