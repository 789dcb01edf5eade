"""A data set and a training on a real small file system: every writer meets the kernel's own refusal, and resumes."""

import pytest
from small_disk import own_mount, run_on_small_disk

SCRIPT = """
import sys
from pathlib import Path
folder = Path(sys.argv[1])
sys.path[:0] = sys.argv[2:]
import torch
from datasets import SETTINGS, StubEncoders, StubFinder, colourful, files_of, save
from lab import STAGE, TinySource, tiny_denoiser
from facecdm.errors import FaceCDMError
from facecdm.training.checks import Inputs, Job
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.sources import FolderSource
from facecdm.training.initialise import random_adapter
from facecdm.training.lora import Lora
from facecdm.training.orchestrator import Training

denoiser = tiny_denoiser()
adapter = random_adapter(denoiser, TinySource(), face_rank=8, face_tokens=2, image_tokens=2, image_layers=1)
for number in range(3):
    save(folder / "in" / f"{number}.png", colourful(number), "a caption")

def dataset(out):
    prepare(FolderSource(folder / "in"), out, StubEncoders(), StubFinder(), SETTINGS)
    return files_of(out)

def training(out):
    jobs = [Job(STAGE.with_settings(localisation=0.0, steps=2, validate_every=2), frozenset())]
    result = Training(Inputs(denoiser, TinySource(), out, held_out=1 / 3), jobs, adapter, Lora()).run()
    return {name: value.tolist() for name, value in result.adapter.state_dict().items()}

def room(free):
    (folder / "ballast").unlink(missing_ok=True)
    left = __import__("os").statvfs(folder)
    (folder / "ballast").write_bytes(bytes(max(0, left.f_bavail * left.f_frsize - free)))

for work in (dataset, training):
    whole, refused = work(folder / f"whole {work.__name__}"), 0
    for free in (4096, 16_384, 65_536, 262_144, 1_000_000):
        out = folder / f"{work.__name__} {free}"
        room(free)
        try:
            work(out)
        except FaceCDMError as error:
            assert "No space left on device" in str(error), error
            refused += 1
        (folder / "ballast").unlink()
        assert work(out) == whole, (work, free)
    assert refused >= 2, (work, refused)
    print(work.__name__, refused, "refused", flush=True)
"""


@pytest.mark.skipif(not own_mount(), reason="this user cannot mount a small disk")
def test_a_data_set_and_a_training_on_a_small_disk(tmp_path):
    done = run_on_small_disk(SCRIPT, tmp_path, "64m")
    assert done.returncode == 0, done.stderr[-3000:]
