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


def test_an_image_that_is_no_picture_is_a_bad_answer(tmp_path):
    """What a server calls a.png may be EPS, for which Pillow would start Ghostscript."""

    class Sender:
        url = "http://here"

        async def wait(self, prompt_id, on_progress):
            return Finished(prompt_id, (Output("1", "images", "a.png", "", "output"),), {})

        async def fetch(self, output):
            data = io.BytesIO()
            Image.new("RGB", (8, 8)).save(data, "eps")
            return data.getvalue()

    reference = read_references([FACEWORLD_REFERENCE])[0]
    job = Job(reference, 1, "a man", Workflow.parse({"1": {"class_type": "SaveImage", "inputs": {}}}))
    with pytest.raises(BadAnswer, match="no picture that can be read"):
        asyncio.run(finish(Sender(), job, "id", ProgressLine(1), None, tmp_path))
    assert not list(tmp_path.iterdir())
