"""Find the file of a vision tower among a user's files: by its published name, else by its tensors' shapes."""

from collections.abc import Iterable
from pathlib import Path

from ..errors import BadFile
from ..tensor_file import open_safetensors
from .encoders import Encoder
from .siglip import POSITIONS, PREFIX

# Names in transformers and OpenCLIP: position embeddings, the pooled embedding's projection and the projection's axis.
_LAYOUTS = (
    (POSITIONS, "visual_projection.weight", 0),
    (POSITIONS, f"{PREFIX}probe", 2),  # SigLIP
    ("visual.positional_embedding", "visual.proj", 1),
    ("visual.pos_embed", "visual.head.weight", 0),  # EVA-CLIP
    ("pos_embed", "head.weight", 0),
)


def find_tower(encoder: Encoder, files: Iterable[Path]) -> Path | None:
    """The first of `files` with the tower's published name and any suffix, else the first with its shapes."""
    files = list(files)
    wanted = Path(encoder.file).stem.lower()
    named = (path for path in files if path.stem.lower() == wanted)
    return next(named, None) or next((path for path in files if _has_shapes_of(encoder, path)), None)


def _has_shapes_of(encoder: Encoder, path: Path) -> bool:
    """Whether a .safetensors file's header has the tower's widths and positions. False for unreadable files."""
    if path.suffix.lower() not in (".safetensors", ".sft"):
        return False
    try:
        with open_safetensors(path) as file:
            keys = set(file.keys())
            for positions, projection, axis in _LAYOUTS:
                if {positions, projection} <= keys:
                    *_, count, states = file.get_slice(positions).get_shape()
                    pooled = file.get_slice(projection).get_shape()[axis]
                    return (count, states, pooled) == (encoder.positions, encoder.states, encoder.pooled)
    except BadFile:
        pass
    return False
