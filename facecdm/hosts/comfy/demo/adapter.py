"""The demo model's adapter, and the LoRA that was trained with it, for a ComfyUI MODEL."""

from pathlib import Path

import comfy.sd

from ....adapter.model import TripletAdapter
from ....adapter.native import load_adapter
from ....bases import name_of
from ....demo.paths import ADAPTER, ADAPTER_LORA, in_use
from ....errors import Mismatch, MissingModel
from ....tensor_file import read_tensors
from ....training.lora import Lora
from ..unet import layer_map

ADVICE = "clone the pack again"


def load(model, adapter: Path | None = None, lora: Path | None = None) -> tuple[object, TripletAdapter]:
    """A copy of MODEL with the LoRA, and the adapter; without paths, those in use (demo/paths.py).

    Raises MissingModel if a file is missing, BadFile if one is damaged, Mismatch for another base model.
    """
    adapter, lora = adapter or in_use(ADAPTER), lora or in_use(ADAPTER_LORA)
    for path in (adapter, lora):
        if not path.is_file():
            raise MissingModel(f"the demo model's adapter is not at {path}; {ADVICE}")
    read = load_adapter(adapter)
    if read.config.layer_map != layer_map(model):
        raise Mismatch(
            f"this adapter is for the demo model, and the model is {name_of(layer_map(model))}: connect Load "
            "FaceCDM Demo Model, or use Load FaceCDM Adapter with a file for your model"
        )
    tensors = read_tensors(lora)[0]
    Lora.from_tensors(tensors, lora)  # core would leave out what it does not know
    return comfy.sd.load_lora_for_models(model, None, tensors, 1.0, 0.0)[0], read
