"""The device and the CPU threads that a command or a configuration names."""

import pytest
import torch

from facecdm import cli
from facecdm.devices import check_device, use_threads
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


@pytest.fixture
def threads():
    count = torch.get_num_threads()
    yield count
    torch.set_num_threads(count)


def test_threads_of_zero_leave_the_choice_to_torch(threads):
    use_threads(0)
    assert torch.get_num_threads() == threads
    use_threads(threads + 1)
    assert torch.get_num_threads() == threads + 1
    with pytest.raises(FaceCDMError, match="^threads must be at least 0; got -1$"):
        use_threads(-1)


@pytest.mark.parametrize("command", [["train", "all"], ["train-pose", "--models", "models"]], ids=lambda one: one[0])
def test_a_negative_number_of_threads_is_refused(command, tmp_path, capsys):
    """As `train-location` does: tests/commands/test_train_location.py."""
    more = ["--data", str(tmp_path), "--tokenizer", str(tmp_path), "--threads", "-1"]
    assert cli.main(["demo", *command, *more]) == 1
    assert "threads must be at least 0; got -1" in capsys.readouterr().err
