"""Downloads from a local server: resumed, verified, atomic, and never over a file that is there."""

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from full_disk import every_write
from hub import Hub, serving

from facecdm.models import download as downloads
from facecdm.models.download import DownloadFailed, download, target_of
from facecdm.models.model_file import ModelFile

DATA = bytes(range(256)) * 8192  # 2 MiB
FILE = ModelFile("pulid", "weights.safetensors", "someone/weights", "deep/weights.safetensors", 2, "MIT", "weights")
PATH = "/someone/weights/resolve/main/deep/weights.safetensors"


def archive(**members: bytes) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return data.getvalue()


@pytest.fixture
def hub(monkeypatch):
    with serving(Hub({PATH: DATA})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        yield hub


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "models"


def pack(hub: Hub, data: bytes, name: str = "some_pack") -> ModelFile:
    hub.files[f"/release/{name}.zip"] = data
    return ModelFile("insightface/models", name, "", "", 1, "research", "pack", f"{hub.address}/release/{name}.zip")


def everything(models: Path) -> list[str]:
    return sorted(path.relative_to(models).as_posix() for path in models.rglob("*") if path.is_file())


def test_a_file_of_the_hub_arrives_whole(hub, models):
    assert download(FILE, models).read_bytes() == DATA
    assert everything(models) == ["pulid/weights.safetensors"], "nothing is left of the staging folder"


def test_a_file_that_is_there_stays(hub, models):
    target = models / "pulid" / "weights.safetensors"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"mine")
    assert download(FILE, models).read_bytes() == b"mine"


def test_a_file_that_appears_meanwhile_stays(hub, models, monkeypatch):
    target = models / "pulid" / "weights.safetensors"
    before = downloads._place

    def place(staged, there):
        there.write_bytes(b"mine")
        before(staged, there)

    monkeypatch.setattr(downloads, "_place", place)
    assert download(FILE, models) == target and target.read_bytes() == b"mine"


def test_a_wrong_hash_is_refused_and_removed(hub, models):
    hub.hashes[PATH] = "ab" * 32
    with pytest.raises(DownloadFailed, match="SHA-256"):
        download(FILE, models)
    assert not (models / "pulid" / "weights.safetensors").exists()


def test_a_missing_file_names_its_page(hub, models):
    with pytest.raises(DownloadFailed, match="huggingface.co/someone/weights"):
        download(replace(FILE, path="elsewhere.safetensors"), models)


def test_a_server_that_is_away_is_named(models, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadFailed, match="resumes"):
        download(FILE, models)


def test_a_cut_connection_resumes(hub, models):
    file = pack(hub, archive(**{"a.onnx": DATA}))
    hub.cut["/release/some_pack.zip"] = 1_000_000
    with pytest.raises(DownloadFailed, match="closed after 1,000,000"):
        download(file, models)
    assert download(file, models).joinpath("a.onnx").read_bytes() == DATA
    assert hub.ranges == ["bytes=1000000-"]


def test_a_cut_connection_to_the_hub_goes_on_where_it_stopped(hub, models):
    hub.files[PATH] = DATA * 12
    hub.cut[PATH] = 15_000_000
    assert download(FILE, models).read_bytes() == DATA * 12
    (resumed,) = hub.ranges
    assert resumed.startswith("bytes=10485760-"), "the hub's library writes blocks of 10 MiB"


def test_an_archive_with_one_folder_around_it_is_flattened(hub, models):
    file = pack(hub, archive(**{"some_pack/det.onnx": b"d", "some_pack/rec.onnx": b"r"}))
    download(file, models)
    assert everything(models) == ["insightface/models/some_pack/det.onnx", "insightface/models/some_pack/rec.onnx"]


@pytest.mark.parametrize("name", ["../evil.onnx", "/evil.onnx", "a/../../evil.onnx", "..\\evil.onnx", "C:evil.onnx"])
def test_an_archive_that_leaves_its_folder_is_refused(hub, models, name):
    file = pack(hub, archive(**{"good.onnx": b"g", name: b"e"}))
    with pytest.raises(DownloadFailed, match="leaves its folder"):
        download(file, models)
    assert not list(models.parent.rglob("evil.onnx")) and not list(models.rglob("good.onnx"))


def test_a_page_in_place_of_an_archive_is_refused(hub, models):
    with pytest.raises(DownloadFailed, match="no zip archive"):
        download(pack(hub, b"<html>not found</html>"), models)


def test_an_archive_of_another_hash_is_refused(hub, models):
    file = replace(pack(hub, archive(**{"a.onnx": b"a"})), sha256="cd" * 32)
    with pytest.raises(DownloadFailed, match="SHA-256"):
        download(file, models)


@pytest.mark.parametrize("kind", ["file", "archive"])
def test_every_write_on_a_full_disk(hub, tmp_path, kind):
    file = FILE if kind == "file" else pack(hub, archive(**{"a.onnx": DATA, "b.onnx": DATA}))
    whole, refused = everything(download(file, tmp_path / "whole").parent), 0
    for _, models, error in every_write(lambda models: download(file, models), tmp_path, DownloadFailed):
        if error is not None:
            refused += 1
            assert "No space left" in str(error) and "Run the same command again" in str(error).replace("run", "Run")
            assert not target_of(file, models).exists()
        assert everything(download(file, models).parent) == whole
    assert refused >= (3 if kind == "file" else 8)


def test_a_disk_that_would_be_full_is_said_first(hub, models, monkeypatch):
    monkeypatch.setattr(downloads.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1_000_000}))
    with pytest.raises(DownloadFailed, match="GB free"):
        download(FILE, models)


def test_no_write_outside_of_models(hub, models):
    with pytest.raises(Exception, match="leaves the models folder"):
        download(replace(FILE, name="../../escape.safetensors"), models)
