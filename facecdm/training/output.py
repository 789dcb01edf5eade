"""The files that a training run from the shell saves beside its checkpoints."""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..adapter.native import save_adapter
from ..errors import FaceCDMError
from ..files import SUFFIX, write_named
from .divergence import check_weights
from .lora import Lora

KINDS = ("lora", "control lora")
_OTHER_NAME = str.maketrans(" _", "_ ")


@dataclass(frozen=True)
class Output:
    """The files folder/name.safetensors and, beside it, the LoRAs name_lora and name_control_lora.

    notes  metadata that identifies the training run
    """

    folder: Path
    name: str
    notes: dict[str, str]

    def check_free(self) -> None:
        """Raise FaceCDMError if a file of another training run would be overwritten."""
        for path in [self._path(), *map(self._path, KINDS)]:
            if path.exists() and not self._is_ours(path):
                raise FaceCDMError(
                    f"{path} exists and was not made by this training: choose another name or out, or give --overwrite"
                )

    def save(self, adapter, lora: Lora, control: Lora) -> dict[str, Path]:
        """Write the trained weights; returns the paths by kind. Raises Diverged, FaceCDMError."""
        paths = {"adapter": save_adapter(adapter, self.folder, self.name, overwrite=True, notes=self.notes)}
        for kind, part in zip(KINDS, (lora, control)):
            if part.parts:
                tensors = {name: value.contiguous() for name, value in part.tensors().items()}
                check_weights(tensors, f"the {kind}")
                content = save(tensors, self.notes | {"format": "pt", "ss_network_module": "networks.lora"})
                paths[kind] = write_named(content, self.folder, self._path(kind).stem, overwrite=True)
        return paths

    def _path(self, kind: str = "") -> Path:
        """The path of a kind's file. A file that an older version wrote as "name lora" keeps its name."""
        parts = [self.name, *kind.split()]
        former = self.folder / (" ".join(parts) + SUFFIX)
        return former if kind and former.exists() else self.folder / ("_".join(parts) + SUFFIX)

    def _is_ours(self, path: Path) -> bool:
        try:
            with safe_open(path, "pt") as file:
                found = file.metadata() or {}
        except (SafetensorError, OSError):
            return False
        return all(found.get(name, value) == value for name, value in self.notes.items()) and "facecdm.data" in found


def find_lora(path: Path) -> Path:
    """`path`, or if it does not exist, the LoRA's other name: NAME_lora, or "NAME lora" (older versions)."""
    stem = re.sub(r"[ _](control[ _])?lora$", lambda ending: ending[0].translate(_OTHER_NAME), path.stem)
    other = path.with_name(stem + path.suffix)
    return other if other.exists() and not path.exists() else path


def notes_of(data: str, base: str, stages: list, start: str) -> dict[str, str]:
    """The metadata that identifies a training run: data set, base model, stages, and initial weights."""
    return {
        "facecdm.data": data,
        "facecdm.base": base,
        "facecdm.stages": json.dumps([stage.to_dict() for stage in stages]),
        "facecdm.start": start,
    }
