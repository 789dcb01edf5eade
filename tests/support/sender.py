"""A server that finishes every job with one picture."""

import io
from pathlib import Path

from PIL import Image

from facecdm.apps.jobs import Job, finish
from facecdm.apps.progress import ProgressLine
from facecdm.apps.references import FACEWORLD_REFERENCE, read_references
from facecdm.apps.sheet import SheetImage
from facecdm.comfy_api.history import Finished, Output
from facecdm.comfy_api.workflow import Workflow


class Sender:
    """Finishes every job with one picture."""

    url = "http://here"

    def __init__(self, kind: str, picture: Image.Image | None = None, **options):
        file = io.BytesIO()
        (picture or Image.new("RGB", (8, 4))).save(file, kind, **options)
        self.data = file.getvalue()

    async def wait(self, prompt_id, on_progress):
        return Finished(prompt_id, (Output("1", "images", "a.png", "", "output"),), {})

    async def fetch(self, output):
        return self.data


async def finished(sender: Sender, folder: Path) -> SheetImage:
    reference = read_references([FACEWORLD_REFERENCE])[0]
    job = Job(reference, 1, "a man", Workflow.parse({"1": {"class_type": "SaveImage", "inputs": {}}}))
    return await finish(sender, job, "id", ProgressLine(1), None, folder)
