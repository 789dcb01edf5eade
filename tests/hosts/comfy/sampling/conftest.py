"""Small base models under ComfyUI, and an adapter for them as if trained."""

import pytest
from clones import clones  # noqa: F401
from twins import SMALL_SD15, SMALL_SDXL, Twins, make_twins, new_adapter, stir


@pytest.fixture(scope="session")
def sd15(in_comfy) -> Twins:
    return make_twins(SMALL_SD15)


@pytest.fixture(scope="session")
def sdxl(in_comfy) -> Twins:
    return make_twins(SMALL_SDXL)


@pytest.fixture(scope="session")
def adapter(sd15):
    from facecdm.hosts.comfy.unet import layer_map

    return stir(new_adapter(layer_map(sd15.model)))


@pytest.fixture(scope="session")
def spatial_adapter(sd15):
    """An adapter that is conditioned on face location."""
    from facecdm.hosts.comfy.unet import layer_map

    return stir(new_adapter(layer_map(sd15.model), spatial_tokens=True))
