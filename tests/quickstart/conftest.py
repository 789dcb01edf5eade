from pathlib import Path

import pytest

from facecdm.quickstart import paths


@pytest.fixture
def home(tmp_path, monkeypatch) -> Path:
    """A .quickstart in a temporary folder, in place of the clone's."""
    home, own = tmp_path / ".quickstart", paths.HOME
    for name, value in list(vars(paths).items()):
        if isinstance(value, Path) and value.is_relative_to(own):
            monkeypatch.setattr(paths, name, home / value.relative_to(own))
    return home
