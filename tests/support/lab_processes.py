"""lab.py's training in several processes, each with a folder of its own.

lab_processes.py FOLDER [other data]: rank N trains in FOLDER/N and leaves FOLDER/N.state; with "other data" the data
sets of the processes differ.
"""

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from lab import STAGE, TinySource, everything, tiny_trainer

from facecdm.training.worker import Worker

torch.set_num_threads(1)
worker = Worker.of(Accelerator(cpu=True))
folder, data = Path(sys.argv[1]) / str(worker.rank), TinySource()
if "other data" in sys.argv:
    data.fingerprint = f"tiny {worker.rank}"
trainer = tiny_trainer(folder, STAGE.with_settings(steps=4), worker, data=data)
first = trainer.step
trainer.run()
torch.save({"first": first, "state": everything(trainer)}, folder.with_suffix(".state"))
