"""Downloads from a local server: resumed, verified, atomic, and never over a file that is there."""

import errno
import hashlib
import io
import os
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path, PurePosixPath

import pytest
from filelock import FileLock
from full_disk import every_write
from hub import Hub, serving

from facecdm.models import download as downloads
from facecdm.models import http_file
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
        monkeypatch.setattr(http_file, "PAUSE", 0)
        yield hub


@pytest.fixture
def models(tmp_path) -> Path:
    return tmp_path / "models"


def pack(hub: Hub, data: bytes, name: str = "some_pack") -> ModelFile:
    hub.files[f"/release/{name}.zip"] = data
    size, link = len(data) / 1e6, f"{hub.address}/release/{name}.zip"
    return ModelFile("insightface/models", name, "", "", size, "research", "pack", link)


def weights_at(link: str) -> ModelFile:
    """A file of 2 MB without a hash, as facexlib's recogniser."""
    return ModelFile("insightface/models", "ir/ir.pth", "", "", 2, "MIT", "recogniser", link)


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


def test_a_cut_connection_resumes_at_once(hub, models):
    file = pack(hub, archive(**{"a.onnx": DATA}))
    hub.cut["/release/some_pack.zip"] = 1_000_000
    assert download(file, models).joinpath("a.onnx").read_bytes() == DATA
    assert hub.ranges == ["bytes=1000000-"]


@pytest.mark.parametrize("kind", ["hub", "link"])
def test_the_next_run_resumes(hub, models, kind):
    file, path = FILE, PATH
    if kind == "link":
        file, path = pack(hub, archive(**{"a.onnx": DATA})), "/release/some_pack.zip"
    hub.stop[path] = 1_000_000
    with pytest.raises(DownloadFailed, match="closed after 1,000,000"):
        download(file, models)
    hub.stop.clear()
    hub.ranges.clear()
    found = download(file, models)
    assert (found if kind == "hub" else found / "a.onnx").read_bytes() == DATA
    assert hub.ranges == ["bytes=1000000-"]
    assert not (models / downloads.STAGING).exists()


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
@pytest.mark.parametrize("way", [signal.SIGINT, signal.SIGKILL])
def test_a_run_that_was_ended_is_resumed(hub, models, way):
    """In a process of its own, which waits for the rest of the file until it is ended."""
    silent = threading.Event()
    hub.pause = {PATH: (1 << 20, silent)}
    code = "from pathlib import Path; from test_download import *; download(FILE, Path(sys.argv[1]))"
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent / "support", here.parent.parent)))
    process = subprocess.Popen([sys.executable, "-c", code, str(models)], env={**os.environ, "PYTHONPATH": paths})
    try:
        until = time.monotonic() + 120
        while not any(part.stat().st_size for part in models.rglob("*.part")):
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.05)
        process.send_signal(way)
        process.wait(60)
    finally:
        process.kill()
        silent.set()
    hub.pause.clear()
    assert download(FILE, models).read_bytes() == DATA
    assert hub.ranges == ["bytes=1048576-"]
    assert everything(models) == ["pulid/weights.safetensors"]


def test_other_content_starts_anew(hub, models):
    hub.stop[PATH] = 1_000_000
    with pytest.raises(DownloadFailed):
        download(FILE, models)
    hub.stop.clear()
    hub.ranges.clear()
    hub.files[PATH] = DATA[::-1]
    assert download(FILE, models).read_bytes() == DATA[::-1]
    assert hub.ranges == [] and everything(models) == ["pulid/weights.safetensors"]


def test_a_server_without_ranges_sends_the_whole_file(hub, models):
    hub.whole = True
    hub.cut[PATH] = 1_000_000
    assert download(FILE, models).read_bytes() == DATA
    assert hub.ranges == ["bytes=1000000-"]


def test_partial_files_of_the_hubs_library_are_removed(hub, models):
    left = models / downloads.STAGING / "someone--weights" / ".cache" / "huggingface" / "download" / "deep"
    left.mkdir(parents=True)
    (left / "abc.0123.incomplete").write_bytes(DATA)
    download(FILE, models)
    assert everything(models) == ["pulid/weights.safetensors"]


def test_two_processes_do_not_write_one_file(hub, models):
    (models / downloads.STAGING).mkdir(parents=True)
    with FileLock(models / downloads.STAGING / downloads.LOCK):
        with pytest.raises(DownloadFailed, match="another process is downloading into"):
            download(FILE, models)
    assert download(FILE, models).read_bytes() == DATA


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("code", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_file_system_without_locks(hub, models, monkeypatch, code):
    fcntl = pytest.importorskip("fcntl")

    def flock(*_):
        raise OSError(getattr(errno, code), "no locks here")

    monkeypatch.setattr(fcntl, "flock", flock)
    assert download(FILE, models).read_bytes() == DATA
    assert everything(models) == ["pulid/weights.safetensors"]


def test_a_server_that_withholds_the_rest(models, monkeypatch):
    """It answers 416: the file is not taken for whole."""
    models.mkdir()
    (models / "a.part").write_bytes(DATA[:50])
    monkeypatch.setattr(http_file, "_ask", lambda *_: None)
    assert http_file.receive("http://nowhere", models / "a.part", size=100) == 100
    assert http_file.receive("http://nowhere", models / "a.part") == 50, "the size is unknown"


def test_a_token_goes_to_the_hub_and_to_no_other_host(hub, models, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    hub.gated.add(PATH)
    assert download(FILE, models).read_bytes() == DATA
    assert set(hub.tokens) == {"Bearer hf_secret"}
    with serving(Hub({"/signed": DATA})) as other:
        hub.moved[PATH] = f"{other.address}/signed"
        assert download(replace(FILE, name="again.safetensors"), models).read_bytes() == DATA
        assert other.tokens == [None]


def test_a_gated_file_without_a_token_is_refused_with_the_hubs_reason(hub, models, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "")
    hub.gated.add(PATH)
    with pytest.raises(DownloadFailed, match="401"):
        download(FILE, models)


@pytest.mark.parametrize("reply", [b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", b""])
def test_an_answer_that_is_no_http_is_a_failed_download(models, reply):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(reply)

        threading.Thread(target=answer, daemon=True).start()
        with pytest.raises(DownloadFailed, match="could not be fetched") as caught:
            download(weights_at(f"http://127.0.0.1:{server.getsockname()[1]}/ir.pth"), models)
    assert "HTTPS_PROXY" in str(caught.value) and "HF_ENDPOINT" not in str(caught.value)


def test_cut_chunks_are_a_failed_download(hub, models):
    hub.files["/ir.pth"], hub.chunked, hub.stop["/ir.pth"] = DATA, True, 1_500_000
    with pytest.raises(DownloadFailed, match="the connection broke"):
        download(weights_at(f"{hub.address}/ir.pth"), models)
    hub.stop.clear()
    assert download(weights_at(f"{hub.address}/ir.pth"), models).read_bytes() == DATA


def test_a_tls_error_while_reading_is_one_of_the_connection(hub, models, monkeypatch):
    hub.files["/ir.pth"] = DATA

    def read(*_):
        raise ssl.SSLError(1, "[SSL: DECRYPTION_FAILED_OR_BAD_RECORD_MAC] decryption failed or bad record mac")

    monkeypatch.setattr("http.client.HTTPResponse.read", read)
    with pytest.raises(DownloadFailed, match="could not be fetched.*BAD_RECORD_MAC") as caught:
        download(weights_at(f"{hub.address}/ir.pth"), models)
    assert "Free some space" not in str(caught.value)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_page_in_place_of_weights_is_refused(hub, models, kind):
    hub.files["/ir.pth"], hub.types["/ir.pth"] = b"<html>Log in to the network.</html>", kind
    with pytest.raises(DownloadFailed, match="a web page" if "html" in kind else "35 bytes, and about 2 MB"):
        download(weights_at(f"{hub.address}/ir.pth"), models)
    hub.files["/ir.pth"], hub.types["/ir.pth"] = DATA, "application/octet-stream"
    assert download(weights_at(f"{hub.address}/ir.pth"), models).read_bytes() == DATA


@pytest.fixture
def other_disk(tmp_path):
    """A folder on another disk than tmp_path."""
    memory = Path("/dev/shm")
    if not os.access(memory, os.W_OK) or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("/dev/shm is not another disk")
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.mark.parametrize("kind", ["file", "archive"])
def test_a_target_folder_on_another_disk(hub, models, other_disk, kind):
    file = FILE if kind == "file" else pack(hub, archive(**{"some_pack/a.onnx": DATA}))
    target = target_of(file, models)
    models.mkdir()
    (models / PurePosixPath(file.folder).parts[0]).symlink_to(other_disk, target_is_directory=True)
    found = download(file, models)
    assert (found if kind == "file" else found / "a.onnx").read_bytes() == DATA and found == target
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    assert not (models / downloads.STAGING).exists()


def test_an_archive_that_could_not_be_placed_is_not_fetched_again(hub, models):
    file = pack(hub, archive(**{"a.onnx": DATA}))
    models.mkdir()
    (models / "insightface").write_bytes(b"a file where a folder is needed")
    with pytest.raises(DownloadFailed, match="could not be written") as caught:
        download(file, models)
    assert "Free some space" not in str(caught.value)
    (models / "insightface").unlink()
    hub.files.clear()
    assert (download(file, models) / "a.onnx").read_bytes() == DATA


def test_a_staged_archive_that_was_changed_is_fetched_again(hub, models):
    file = pack(hub, archive(**{"a.onnx": DATA}))
    file = replace(file, sha256=hashlib.sha256(hub.files["/release/some_pack.zip"]).hexdigest())
    (models / downloads.STAGING).mkdir(parents=True)
    (models / downloads.STAGING / "some_pack.zip").write_bytes(b"damaged")
    assert (download(file, models) / "a.onnx").read_bytes() == DATA


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
