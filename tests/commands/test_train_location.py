"""`python -m facecdm train-location`: what is checked before the first step, and the adapter that it writes."""

from dataclasses import replace

import pytest
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, save
from lab import TinySource, tiny_denoiser

from facecdm import cli
from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.hosts.diffusers import denoiser as host
from facecdm.training import location
from facecdm.training.dataset import data_set
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import FolderSource
from facecdm.training.initialise import random_adapter


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Run the command on a tiny base model and its data set; returns the exit code."""
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = random_adapter(denoiser, data, face_rank=8, face_tokens=4, image_tokens=2, image_layers=1)
    config = replace(adapter.config, spatial_tokens=True)
    adapter = TripletAdapter(config).init_from_text(denoiser.text_keys_values())
    path = save_adapter(adapter, tmp_path, "mine")
    monkeypatch.setattr(host, "open_base", lambda *given: denoiser)
    monkeypatch.setattr(data_set, "DataSet", lambda folder: data)

    def run(*more: str, out=tmp_path / "out") -> int:
        given = ["train-location", path, "--data", tmp_path / "data", "--out", out, "--steps", "2", "--batch", "4"]
        return cli.main([*map(str, given), *more])

    return run


def test_a_head_is_put_into_a_copy_of_the_adapter(run, tmp_path, capsys):
    assert run() == 0
    assert load_adapter(tmp_path / "out" / "mine.safetensors").config.location_channels == 4
    assert "step 2 of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given,message",
    [
        (["--name", "a/b"], "'a/b' cannot be the name of a file"),
        (["--steps", "0"], "steps must be at least 1; got 0"),
        (["--batch", "0"], "batch must be at least 1; got 0"),
        (["--call", "-1"], "call must be at least 0; got -1"),
        (["--threads", "-1"], "threads must be at least 0; got -1"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_step(run, given, message, capsys, monkeypatch):
    monkeypatch.setattr(location, "train_location_head", lambda *_: pytest.fail("it trained"))
    assert run(*given) == 1 and message in capsys.readouterr().err


def test_a_file_in_the_place_of_the_folder_is_refused_before_the_first_step(run, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(location, "train_location_head", lambda *_: pytest.fail("it trained"))
    (tmp_path / "file").write_text("mine")
    assert run(out=tmp_path / "file") == 1 and "could not be written into" in capsys.readouterr().err


def test_a_data_set_of_another_base_is_refused(run, tmp_path, capsys, monkeypatch):
    save(tmp_path / "in" / "one.png", colourful(1), "words")
    data = prepare(FolderSource(tmp_path / "in"), tmp_path / "data", StubEncoders(), StubFinder(), SETTINGS)
    monkeypatch.setattr(data_set, "DataSet", lambda folder: data)
    assert run() == 1 and "the data set's prompts have 6 features" in capsys.readouterr().err
    assert not (tmp_path / "out" / "mine.safetensors").exists()
