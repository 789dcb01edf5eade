"""Adapters for the small SD1.5, with random weights and open gates; a small Flux.1 and published adapters for it."""

import flux
import pytest
from clones import clones  # noqa: F401
from published_flux import SMALL_FLUX, pulid_flux, state_of, withanyone
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


@pytest.fixture(scope="session")
def model(in_comfy):
    """A small Flux.1."""
    return flux.make_flux()


@pytest.fixture(scope="session")
def quantised_pair(in_comfy):
    """Small Flux.1 in fp8, and with the dequantised weights."""
    return flux.make_quantised_pair()


@pytest.fixture(scope="session")
def adapters(model):
    """PuLID-FLUX and WithAnyone for the small Flux.1."""
    from facecdm import bases
    from facecdm.formats.imported import import_adapter
    from facecdm.formats.read import canonical
    from facecdm.hosts.comfy.base_model import layer_map

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(bases.BASES, "small Flux", bases.Base("small Flux", layer_map(model)))
        states = state_of(pulid_flux(SMALL_FLUX, 4)), state_of(withanyone(SMALL_FLUX, 8))
        return [import_adapter(canonical(state, {}, "a.safetensors")) for state in states]


@pytest.fixture(scope="session")
def pulid(adapters):
    return adapters[0]
