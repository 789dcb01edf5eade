"""One image of a workflow."""

import asyncio
from dataclasses import replace

import pytest
from PIL import Image
from sender import Sender, finished

from facecdm.comfy_api.errors import BadAnswer


def test_an_image_that_is_no_picture_is_a_bad_answer(tmp_path):
    """What a server calls a.png may be EPS, for which Pillow would start Ghostscript."""
    with pytest.raises(BadAnswer, match="no picture that can be read"):
        asyncio.run(finished(Sender("eps"), tmp_path))
    assert not list(tmp_path.iterdir())


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert asyncio.run(finished(Sender("png", exif=exif), tmp_path)).picture.size == (4, 8)


def test_what_the_nodes_warn_of_is_shown_once(tmp_path, capsys, monkeypatch):
    shown = {"1": {"facecdm_warnings": ["this face is unlike"]}, "2": {"facecdm_warnings": ["this face is unlike", 3]}}
    sender = Sender("png")
    wait = sender.wait

    async def warned(prompt_id, on_progress):
        return replace(await wait(prompt_id, on_progress), ui=shown)

    monkeypatch.setattr(sender, "wait", warned)
    asyncio.run(finished(sender, tmp_path))
    assert capsys.readouterr().out == "  warning: this face is unlike\n"
