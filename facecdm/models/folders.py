"""The folders in which ComfyUI looks for models: its models folder, and those that extra_model_paths.yaml adds."""

import os
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from ..errors import BadFile, FaceCDMError
from .download import target_of
from .model_file import PACK_FOLDER, ModelFile

CONFIG = "extra_model_paths.yaml"  # in ComfyUI's folder
FORMER = {"diffusion_models": "unet", "text_encoders": "clip"}  # names that ComfyUI still reads


class ModelFolders:
    """
    models   ComfyUI's models folder
    comfyui  ComfyUI's folder, whose extra_model_paths.yaml is read if there is one; or None
    configs  further files of this form

    The files are read when they are needed. The methods raise BadFile if one cannot be read.
    """

    def __init__(self, models: Path, comfyui: Path | None = None, configs: Sequence[Path] = ()):
        self.models = models
        self._configs = [*([comfyui / CONFIG] if comfyui else []), *configs]

    @cached_property
    def _added(self) -> list[tuple[str, Path]]:
        """(kind, folder) of every line of the files."""
        return [line for config in self._configs for line in _read(config)]

    def of(self, kind: str) -> list[Path]:
        """The folders of a kind of model, such as "checkpoints"; ComfyUI's own first."""
        kinds = [kind, FORMER[kind]] if kind in FORMER else [kind]
        return [self.models / name for name in kinds] + [folder for name, folder in self._added if name in kinds]

    def files(self, kind: str) -> Iterator[Path]:
        """All files of a kind, in subfolders and linked folders, too."""
        for top in self.of(kind):
            for folder, _, names in os.walk(top, followlinks=True):
                yield from (Path(folder, name) for name in names)

    def find(self, file: ModelFile) -> Path | None:
        """The file, or its face pack's folder, where a loader finds it."""
        if file.is_archive:
            return self._find_pack(file.name)
        kind, _, below = file.folder.partition("/")
        found = (folder / below / file.name for folder in self.of(kind))
        return next((path for path in found if path.is_file() and path.stat().st_size), None)

    def target(self, file: ModelFile) -> Path:
        """Path to download to. Raises BadFile if something useless is in the way, as an interrupted copy leaves it."""
        target = target_of(file, self.models)
        if target.exists():
            what = "not a complete face pack" if target.is_dir() else "empty"
            raise BadFile(f"{target} is {what}: move it away, and run the same command again")
        return target

    def _find_pack(self, name: str) -> Path | None:
        from ..faces.packs import find_packs, sort_pack

        folder = find_packs(self.of(PACK_FOLDER.split("/")[0])).get(name)
        if folder is None:
            return None
        try:
            sort_pack(name, folder)
        except FaceCDMError:  # incomplete
            return None
        return folder


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
