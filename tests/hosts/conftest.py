"""Small base models, each as ComfyUI's MODEL and as diffusers' U-Net; see tests/support/twins.py."""

import pytest
from twins import SMALL_SD15, SMALL_SDXL, Twins, make_twins


@pytest.fixture(scope="session")
def sd15(in_comfy) -> Twins:
    return make_twins(SMALL_SD15)


@pytest.fixture(scope="session")
def sdxl(in_comfy) -> Twins:
    return make_twins(SMALL_SDXL)


@pytest.fixture(params=["sd15", "sdxl"])
def twins(request) -> Twins:
    """Each of the small bases in turn."""
    return request.getfixturevalue(request.param)
