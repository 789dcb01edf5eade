"""Registration of FaceCDM's folders below ComfyUI's models/. extra_model_paths.yaml may add to each key."""

from pathlib import Path

from ..facecdm.files import SUFFIX
from ..facecdm.formats.read import SUFFIXES
from ..facecdm.pose import dwpose, openpose

ADAPTERS = "facecdm"
SAVED_FACES = "facecdm_faces"
FACE_PACKS = "insightface"
PUBLISHED_ADAPTERS = ("ipadapter", "instantid", "pulid")
# Extensions that ComfyUI lists; () where the pack reads the folder itself.
EXTENSIONS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys((ADAPTERS, SAVED_FACES), (SUFFIX,)),
    **dict.fromkeys((*PUBLISHED_ADAPTERS, "facexlib"), SUFFIXES),
    **dict.fromkeys((FACE_PACKS, openpose.FOLDER, dwpose.FOLDER), ()),
}


def register() -> None:
    """Add each folder to ComfyUI's list. A key that another pack has registered keeps its extensions."""
    import folder_paths

    for key, extensions in EXTENSIONS.items():
        new = key not in folder_paths.folder_names_and_paths
        default = key == ADAPTERS  # saved adapters go there even if extra_model_paths.yaml adds folders
        folder_paths.add_model_folder_path(key, str(Path(folder_paths.models_dir) / key), is_default=default)
        if new or key in (ADAPTERS, SAVED_FACES):
            folder_paths.folder_names_and_paths[key][1].update(extensions)


def folders(key: str) -> list[Path]:
    import folder_paths

    return [Path(folder) for folder in folder_paths.get_folder_paths(key)]
