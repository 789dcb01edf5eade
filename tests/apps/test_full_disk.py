"""A full disk at every write of `portrait` and `gallery`: a sentence, and what is written already stays."""

import argparse
import shutil
from contextlib import contextmanager

import pytest
from full_disk import every_write
from sender import Sender, finished

from facecdm.apps import gallery, portrait
from facecdm.apps.references import FACEWORLD_REFERENCE
from facecdm.apps.sheet import SheetRow
from facecdm.errors import FaceCDMError


@pytest.mark.parametrize("command", [gallery, portrait])
def test_every_write_on_a_full_disk(command, tmp_path, monkeypatch):
    """A server that sends one picture; the rest is the command's own."""

    async def rows(*arguments):
        made = await finished(Sender("png"), folders[-1] / "out")
        return [SheetRow("a", made.picture, (made,))]

    @contextmanager
    def server(options):
        yield "127.0.0.1:9", None

    def run(out):
        folders.append(out)
        command.main(argparse.Namespace(**options, output=out / "out", docs=out / "docs"))

    folders = []
    options = {"base": None, "comfyui": None, "adapter": None, "reference": [FACEWORLD_REFERENCE], "prompt": ["a man"]}
    options |= {"steps": None, "seed": 1, "workflow": None, "serve": False}
    for name, value in {"make_rows": rows, "make_all": rows, "running_server": server}.items():
        monkeypatch.setattr(command, name, value, raising=False)
    monkeypatch.setattr(command, "open_meter", lambda options, references: None)
    run(tmp_path / "whole")
    names = sorted(path.name for path in (tmp_path / "whole").rglob("*.*"))
    refused = 0
    for _, out, error in every_write(run, tmp_path, FaceCDMError):
        refused += 1
        assert "No space left on device" in str(error) and str(out) in str(error)
        assert all(path.stat().st_size and path.suffix != ".part" for path in out.rglob("*.*"))
        if command is portrait:  # it replaces no file, also none of a run that ended early
            shutil.rmtree(out, ignore_errors=True)
        run(out)
        assert sorted(path.name for path in out.rglob("*.*")) == names and len(names) == 3
    assert refused >= 10
