"""Where ComfyUI finds models: its models folder, and the folders that extra_model_paths.yaml adds."""

import os
from collections.abc import Iterator
from pathlib import Path

from ..errors import BadFile
from .download import target_of
from .model_file import PACK_FOLDER, ModelFile

CONFIG = "extra_model_paths.yaml"  # in ComfyUI's folder
FORMER = {"diffusion_models": "unet", "text_encoders": "clip"}  # names that ComfyUI still reads


class Places:
    """
    models   ComfyUI's models folder
    configs  files in the form of extra_model_paths.yaml; a missing one adds nothing

    Raises BadFile.
    """

    def __init__(self, models: Path, *configs: Path):
        self.models = models
        self._added: dict[str, list[Path]] = {}
        for config in configs:
            for kind, folder in _read(config):
                self._added.setdefault(kind, []).append(folder)

    def of(self, kind: str) -> list[Path]:
        """The folders of a kind of model, such as "checkpoints"; ComfyUI's own first."""
        kinds = [kind, FORMER[kind]] if kind in FORMER else [kind]
        return [self.models / name for name in kinds] + [
            folder for name in kinds for folder in self._added.get(name, ())
        ]

    def files(self, kind: str) -> Iterator[Path]:
        """All files of a kind, in subfolders and linked folders, too."""
        for place in self.of(kind):
            for folder, _, names in os.walk(place, followlinks=True):
                yield from (Path(folder, name) for name in names)

    def find(self, file: ModelFile) -> Path | None:
        """The file, or its face pack's folder, where a loader finds it."""
        if file.is_archive:
            return self._find_pack(file.name)
        kind, _, below = file.folder.partition("/")
        found = (place / below / file.name for place in self.of(kind))
        return next((path for path in found if path.is_file() and path.stat().st_size), None)

    def target(self, file: ModelFile) -> Path:
        """Path to download to. Raises BadFile if something useless is in the way, as an interrupted copy leaves it."""
        target = target_of(file, self.models)
        if target.exists():
            what = "no complete face pack" if target.is_dir() else "empty"
            raise BadFile(f"{target} is {what}: move it away, and run the same command again")
        return target

    def _find_pack(self, name: str) -> Path | None:
        from ..errors import FaceCDMError
        from ..faces.packs import find_packs, sort_pack

        folder = find_packs(self.of(PACK_FOLDER.split("/")[0])).get(name)
        try:
            return folder and sort_pack(name, folder) and folder
        except FaceCDMError:
            return None


def _read(config: Path) -> Iterator[tuple[str, Path]]:
    """(kind, folder) of every line, as ComfyUI reads it (utils/extra_config.py)."""
    if not config.is_file():
        return
    import yaml

    try:
        sections = yaml.safe_load(config.read_text(encoding="utf-8")) or {}
        for section in filter(None, sections.values()):
            base = os.path.expandvars(os.path.expanduser(section.pop("base_path", "")))
            section.pop("is_default", None)
            for kind, folders in section.items():
                yield from (
                    (kind, config.absolute().parent / base / folder) for folder in filter(None, folders.split("\n"))
                )
    except (OSError, ValueError, AttributeError, TypeError, yaml.YAMLError) as error:
        raise BadFile(f"{config} cannot be read as a list of model folders: {str(error)[:200]}") from error
