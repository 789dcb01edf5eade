"""Another pack of nodes beside ours in one process, on the CPU: for the benchmarks that compare with it."""

import argparse
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent


def open_pack(about: str, name: str) -> ModuleType:
    """Read --comfyui and --pack, make ComfyUI and our tests' twins importable, and import that pack as `name`."""
    parser = argparse.ArgumentParser(description=about.splitlines()[0])
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--pack", type=Path, required=True, help="a clone of the other pack")
    arguments = parser.parse_args()
    sys.path[:0] = [str(arguments.comfyui), str(ROOT), str(ROOT / "tests" / "support")]
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    spec = importlib.util.spec_from_file_location(
        name, arguments.pack / "__init__.py", submodule_search_locations=[str(arguments.pack)]
    )
    pack = importlib.util.module_from_spec(spec)
    sys.modules[name] = pack
    spec.loader.exec_module(pack)
    return pack
