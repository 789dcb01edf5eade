"""A full disk in training, at every write: a sentence, the last checkpoint stays, and the same training resumes."""

import shutil
from pathlib import Path

import pytest
import torch
from full_disk import every_write
from lab import STAGE, TinySource, tiny_denoiser
from safetensors.torch import load_file

from facecdm.errors import FaceCDMError
from facecdm.training import orchestrator, state
from facecdm.training.checks import Inputs, Job
from facecdm.training.initialise import random_adapter
from facecdm.training.lora import Lora
from facecdm.training.orchestrator import Training
from facecdm.training.output import Output

FULL = Path("/dev/full")
STAGES = [Job(STAGE.with_settings(localisation=0.0, steps=2, validate_every=2), frozenset())]


@pytest.mark.skipif(not FULL.exists(), reason="this system has no /dev/full")
def test_a_full_disk_keeps_the_last_checkpoint(tmp_path, monkeypatch):
    monkeypatch.setattr(state, "_content", lambda *parts: {"weights": torch.zeros(100_000)})
    path = tmp_path / "broad.pt"
    path.write_bytes(b"the last one")
    (tmp_path / "broad.partial").symlink_to(FULL)
    with pytest.raises(FaceCDMError, match=r"broad.pt could not be written.*last checkpoint is kept"):
        state.save(path, None, None, {}, None, 1, [])
    assert [(file.name, file.read_bytes()) for file in tmp_path.iterdir()] == [("broad.pt", b"the last one")]


def test_every_write_of_a_training(tmp_path, monkeypatch):
    monkeypatch.setattr(orchestrator, "preview", lambda *parts: torch.zeros(1, 3, 8, 8))  # sampling is slow
    denoiser = tiny_denoiser()
    adapter = random_adapter(denoiser, TinySource(), face_rank=8, face_tokens=2, image_tokens=2, image_layers=1)

    def train(out: Path):
        inputs = Inputs(denoiser, TinySource(), out, held_out=1 / 3)
        result = Training(inputs, STAGES, adapter, Lora()).run()
        return Output(out, "mine", {"facecdm.data": "x"}).save(result.adapter, result.lora, result.control)

    whole = {kind: load_file(path) for kind, path in train(tmp_path / "whole").items()}
    history = (tmp_path / "whole" / "broad.jsonl").read_bytes()
    refused = 0
    for _, out, error in every_write(train, tmp_path, FaceCDMError):
        if error is not None:
            refused += 1
            assert "No space left on device" in str(error) and len(str(error)) <= 1000
            assert not [path.name for path in out.rglob("*") if path.suffix in (".part", ".partial")]
        for path in out.glob("*.pt"):
            torch.load(path, weights_only=True)  # every checkpoint is whole
        assert all(path.read_bytes() == history for path in out.glob("*.jsonl"))
        again = {kind: load_file(path) for kind, path in train(out).items()}
        assert again.keys() == whole.keys() and (out / "broad.jsonl").read_bytes() == history
        assert all(torch.equal(again[kind][name], value) for kind in whole for name, value in whole[kind].items())
        shutil.rmtree(out)
    assert refused > 20
