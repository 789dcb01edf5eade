"""The device that a command or a configuration names."""

import pytest
import torch

from facecdm.devices import check_device
from facecdm.errors import FaceCDMError

ABSENT = f"cuda:{torch.cuda.device_count()}"  # one more than there are


def test_a_device_that_works():
    assert check_device("cpu") == "cpu"
    assert check_device(None) == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "", "cuda:-1"])
def test_a_device_that_is_none(name):
    with pytest.raises(FaceCDMError, match=f"^device '{name}' is not one that torch knows: use cpu, cuda"):
        check_device(name)


@pytest.mark.parametrize("name", [ABSENT, "hpu", "vulkan"])
def test_a_device_that_this_machine_lacks(name):
    """torch raises RuntimeError, ModuleNotFoundError or NotImplementedError."""
    with pytest.raises(FaceCDMError, match=rf"^device '{name}' cannot be used here \(.+\): use cpu"):
        check_device(name)
