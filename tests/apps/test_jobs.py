"""One image of a workflow."""

import asyncio
import io

import pytest
from PIL import Image

from facecdm.apps.jobs import Job, finish
from facecdm.apps.progress import ProgressLine
from facecdm.apps.references import FACEWORLD_REFERENCE, read_references
from facecdm.comfy_api.errors import BadAnswer
from facecdm.comfy_api.history import Finished, Output
from facecdm.comfy_api.workflow import Workflow


class Sender:
    """Finishes every job with one picture."""

    url = "http://here"

    def __init__(self, kind: str, **options):
        file = io.BytesIO()
        Image.new("RGB", (8, 4)).save(file, kind, **options)
        self.data = file.getvalue()

    async def wait(self, prompt_id, on_progress):
        return Finished(prompt_id, (Output("1", "images", "a.png", "", "output"),), {})

    async def fetch(self, output):
        return self.data


def finished(sender: Sender, folder):
    reference = read_references([FACEWORLD_REFERENCE])[0]
    job = Job(reference, 1, "a man", Workflow.parse({"1": {"class_type": "SaveImage", "inputs": {}}}))
    return asyncio.run(finish(sender, job, "id", ProgressLine(1), None, folder))


def test_an_image_that_is_no_picture_is_a_bad_answer(tmp_path):
    """What a server calls a.png may be EPS, for which Pillow would start Ghostscript."""
    with pytest.raises(BadAnswer, match="no picture that can be read"):
        finished(Sender("eps"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_image_is_turned_as_its_exif_says(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    assert finished(Sender("png", exif=exif), tmp_path).picture.size == (4, 8)
