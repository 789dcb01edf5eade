"""Starting and stopping a ComfyUI process; small stand-ins for main.py fail in its place."""

import os
import socket
import time

import pytest

from facecdm.comfy_api.errors import PortTaken, ServerDied, ServerUnreachable
from facecdm.comfy_api.server import LocalServer, link_pack
from facecdm.errors import FaceCDMError


def stand_in(folder, source):
    (folder / "comfy").mkdir(parents=True)
    (folder / "main.py").write_text(source)
    return folder


def test_a_dead_servers_error_shows_its_log(tmp_path):
    comfyui = stand_in(tmp_path / "c", "print('loading'); raise SystemExit('no module named torchsde')")
    with pytest.raises(ServerDied, match=r"(?s)exit code 1.*no module named torchsde"):
        LocalServer(comfyui, tmp_path / "base").start()


def test_a_server_that_never_answers_is_stopped(tmp_path):
    server = LocalServer(stand_in(tmp_path / "c", "import time; time.sleep(60)"), tmp_path / "base")
    with pytest.raises(ServerUnreachable, match="did not answer in"):
        server.start(timeout=1)
    assert server.process.poll() is not None


def test_a_server_that_ignores_sigterm_is_killed(tmp_path):
    source = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up'); time.sleep(60)"
    server = LocalServer(stand_in(tmp_path / "c", source), tmp_path / "base")
    server.spawn()
    while "up" not in server.tail():
        time.sleep(0.05)
    server.stop(patience=0.3)
    assert server.process.poll() is not None
    server.stop()


def test_a_taken_port_is_reported_before_the_start(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = LocalServer(stand_in(tmp_path / "c", ""), tmp_path / "base", port=port)
        with pytest.raises(PortTaken, match=f"port {port} is taken.*--port"):
            server.start()
    assert server.process is None


def test_another_server_on_the_port_is_recognised(tmp_path, server):
    mine = LocalServer(stand_in(tmp_path / "c", "import time; time.sleep(60)"), tmp_path / "base")
    mine.spawn()
    try:
        mine.port = int(server.address.rpartition(":")[2])
        assert not mine.answers()
    finally:
        mine.stop()


def test_a_folder_that_is_no_comfyui(tmp_path):
    with pytest.raises(FaceCDMError, match="it has no main.py"):
        LocalServer(tmp_path, tmp_path / "base").start()


def test_the_server_has_its_own_process_group(tmp_path):
    server = LocalServer(stand_in(tmp_path / "c", "import time; time.sleep(60)"), tmp_path / "base")
    server.spawn()
    try:
        if os.name != "nt":
            assert os.getpgid(server.process.pid) == server.process.pid != os.getpgid(0)
    finally:
        server.stop()


def test_the_pack_is_linked_and_a_stale_link_replaced(tmp_path):
    pack, other = tmp_path / "pack", tmp_path / "other"
    for folder in (pack, other):
        folder.mkdir()
        (folder / "__init__.py").write_text(folder.name)
    for source in (other, pack, pack):
        target = link_pack(source, tmp_path / "base")
        assert (target / "__init__.py").read_text() == source.name
    assert (pack / "__init__.py").exists() and (other / "__init__.py").exists()


def test_without_links_the_pack_is_copied(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError("links are not allowed")

    monkeypatch.setattr("pathlib.Path.symlink_to", refuse)
    pack = tmp_path / "pack"
    (pack / ".git").mkdir(parents=True)
    (pack / "__init__.py").write_text("x")
    target = link_pack(pack, tmp_path / "base")
    assert (target / "__init__.py").exists() and not (target / ".git").exists()
    (pack / "__init__.py").write_text("newer")
    assert (link_pack(pack, tmp_path / "base") / "__init__.py").read_text() == "newer"


def test_a_users_clone_stays(tmp_path):
    pack, base = tmp_path / "pack", tmp_path / "base"
    pack.mkdir()
    clone = base / "custom_nodes" / "facecdm"
    clone.mkdir(parents=True)
    (clone / "mine.py").touch()
    with pytest.raises(FaceCDMError, match="another copy of the pack"):
        link_pack(pack, base)
    assert (clone / "mine.py").exists()


def test_a_pack_under_another_name_is_not_linked_again(tmp_path):
    pack = tmp_path / "base" / "custom_nodes" / "ComfyUI-FaceCDM"
    pack.mkdir(parents=True)
    assert link_pack(pack, tmp_path / "base") == pack
    assert len(list(pack.parent.iterdir())) == 1
