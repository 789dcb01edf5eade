"""The vision tower that an adapter was trained with, found among the user's files and loaded on first use."""

from pathlib import Path

from ..facecdm.errors import BadFile, MissingModel
from ..facecdm.faces import curricular_face
from ..facecdm.formats.encoders import EVA, PENULTIMATE, SIGLIP, SIGLIP_SO400M, Encoder, encoder_for
from ..facecdm.formats.read import incomplete
from ..facecdm.formats.tower_files import find_tower
from ..facecdm.hosts.comfy import running_node
from ..facecdm.invocation import command_line
from ..facecdm.tensor_file import read_tensors
from . import eva

AUTO = "auto"


def tower_names() -> list[str]:
    """List the files that may be vision towers."""
    import folder_paths

    return list(dict.fromkeys([*folder_paths.get_filename_list("clip_vision"), *eva.files("eva")]))


def tower_of_adapter(adapter, chosen: str = AUTO):
    """Return a CLIP_VISION, or None if the adapter has no image encoder or needs an unknown tower.

    `chosen` is a file's name; with AUTO the adapter's tower is looked for by its content.
    """
    from ..facecdm.hosts.comfy.lazy_vision import LazyFaceStates, LazyFaceTower, LazyVision

    encoder = _encoder_of(adapter.config)
    if encoder is None:
        if chosen not in (AUTO, *tower_names()):
            raise MissingModel(f"vision_tower is {chosen}, which is not in models/clip_vision: choose auto")
        return None
    if chosen != AUTO:
        tower_path(encoder, chosen)  # raises for a missing file now, and not where the tower is first used
    if encoder == EVA:
        return LazyFaceTower(lambda: _load_eva(tower_path(encoder, chosen)))
    if any(getattr(part.family.recipe, "backbone", "") for part in getattr(adapter.config, "parts", {}).values()):
        return LazyFaceStates(lambda: _with_face_states(_load(tower_path(encoder, chosen), encoder)))
    return LazyVision(lambda: _load(tower_path(encoder, chosen), encoder))


def tower_path(encoder: Encoder, chosen: str = AUTO) -> Path:
    """Find the tower's file. Raises MissingModel with the command that downloads it."""
    import folder_paths

    keys = eva.FOLDERS if encoder == EVA else ("clip_vision",)
    for key in keys:
        if chosen != AUTO and (path := folder_paths.get_full_path(key, chosen)):
            return Path(path)
    if chosen != AUTO:
        raise MissingModel(
            f"vision_tower is {chosen}, which is not in models/{' or models/'.join(keys)}, where this adapter's towers "
            f"are: choose another file, or auto. `{command_line(f'get {encoder.file}')}` in the pack's folder "
            "downloads the one that the adapter was trained with"
        )
    files = [
        Path(folder_paths.get_full_path_or_raise(key, name))
        for key in keys
        for name in folder_paths.get_filename_list(key)
    ]
    found = find_tower(encoder, files)
    if found is None:
        raise MissingModel(
            f"the adapter needs the vision tower {encoder.name}, and models/clip_vision has neither {encoder.file} "
            f"nor another file of it: run `{command_line(f'get {encoder.file}')}` in the pack's folder, or connect a "
            "loaded one to clip_vision"
        )
    return found


def _load_eva(path: Path):
    """PuLID's tower. Without the face parser's file, the running node gets a warning."""
    if eva.parser_file() is None:
        running_node.warn([f"No face parser was found: {eva.OVAL}."])
    return eva.load(path)[0]


def _encoder_of(config) -> Encoder | None:
    parts = getattr(config, "parts", None)
    if parts is None:
        return encoder_for(PENULTIMATE, config.image_width) if config.image_width else None
    return next((part.encoder for part in parts.values() if part.encoder), None)


def _load(path: Path, encoder: Encoder):
    import comfy.clip_vision

    from ..facecdm.hosts.comfy.siglip import load_siglip

    if encoder in (SIGLIP, SIGLIP_SO400M):
        with incomplete(path):
            vision = load_siglip(read_tensors(path)[0], encoder)
    else:
        vision = comfy.clip_vision.load(str(path))
    if vision is None:
        raise BadFile(f"{path} is no CLIP vision model that ComfyUI reads: get it again, or rename it")
    return vision


def _with_face_states(vision):
    """UniPortrait's towers. Raises MissingModel, BadFile."""
    import folder_paths

    from ..facecdm.hosts.comfy.curricular_face import VisionWithFaceStates

    wanted = Path(curricular_face.FILE).stem
    names = [name for name in folder_paths.get_filename_list("clip_vision") if Path(name).stem == wanted]
    if not names:
        raise MissingModel(
            f"UniPortrait reads CurricularFace, and models/clip_vision has no {curricular_face.FILE}: run `python -m "
            f"facecdm get {curricular_face.FILE}` in the pack's folder"
        )
    path = Path(folder_paths.get_full_path_or_raise("clip_vision", names[0]))
    return VisionWithFaceStates(vision, curricular_face.load_curricular_face(path))
