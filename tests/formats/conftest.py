"""Published adapters for small bases, and the bases themselves."""

import pytest
from clones import clones  # noqa: F401
from published import SMALL, SMALL_XL, published_state
from twins import NARROW_SDXL, SMALL_SD15, SMALL_SDXL, Twins, make_twins

from facecdm import bases
from facecdm.hosts.comfy.unet import layer_map


@pytest.fixture(scope="session")
def small_sd15(in_comfy) -> Twins:
    return make_twins(SMALL_SD15)


@pytest.fixture(scope="session")
def small_sdxl(in_comfy) -> Twins:
    return make_twins(SMALL_SDXL)


@pytest.fixture(scope="session")
def narrow_sdxl(in_comfy) -> Twins:
    """SDXL at its own widths, with fewer blocks."""
    return make_twins(NARROW_SDXL)


@pytest.fixture(params=["sd15", "sdxl"])
def small(request, monkeypatch):
    """(twins, sizes of adapters for them): each small base in turn, known by name while the test runs."""
    twins = request.getfixturevalue(f"small_{request.param}")
    name = f"small {request.param}"
    monkeypatch.setitem(bases.BASES, name, bases.Base(name, layer_map(twins.model)))
    return twins, SMALL if request.param == "sd15" else SMALL_XL


@pytest.fixture
def make_state(small):
    """family → a made-up file's nested tensors for the small base."""
    twins, sizes = small
    return lambda family, **more: published_state(family, layer_map(twins.model), sizes, **more)
