"""Other node packs in this process, for tests that compare with them. They are not part of this project."""

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest


def other_pack(name: str) -> ModuleType:
    """The pack whose clone FACECDM_{NAME} names; skips where that is not set."""
    variable = f"FACECDM_{name.upper()}"
    if not os.environ.get(variable):
        pytest.skip(f"set {variable} to a clone of ComfyUI_{name}")
    folder = Path(os.environ[variable])
    module = f"other_pack_{name}"
    spec = importlib.util.spec_from_file_location(
        module, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules[module] = pack
    spec.loader.exec_module(pack)
    return pack


def difference(one, other) -> float:
    """Largest difference as part of the other's largest value."""
    return ((one - other).abs().max() / other.abs().max()).item()
