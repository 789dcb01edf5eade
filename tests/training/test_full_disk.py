"""A full disk in training: a sentence, and the last checkpoint stays."""

from pathlib import Path

import pytest
import torch

from facecdm.errors import FaceCDMError
from facecdm.training import state

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "_content", lambda *parts: {"weights": torch.zeros(100_000)})
    path = tmp_path / "broad.pt"
    path.write_bytes(b"the last one")
    (tmp_path / "broad.partial").symlink_to(FULL)
    with pytest.raises(FaceCDMError, match=r"broad.pt could not be written.*last checkpoint is kept"):
        state.save(path, None, None, {}, None, 1, [])
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("broad.pt", b"the last one")]
