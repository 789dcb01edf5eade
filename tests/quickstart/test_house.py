"""The rules of the house that a program can check: imports point down, heavy packages are imported where used."""

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = sorted((ROOT / "facecdm").rglob("*.py"))
PACK = [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py")), *LIBRARY]
COMFYUI = {"comfy", "comfy_api", "comfy_extras", "comfy_execution", "folder_paths", "node_helpers", "nodes"}
HEAVY = {"insightface", "onnxruntime", "onnx", "cv2", "matplotlib", "skimage", "transformers", "diffusers"}
# What a package of the library may import of the others; modules such as errors.py and files.py are open to all.
ARROWS = {
    "bases": set(),
    "faces": set(),
    "pose": {"faces"},
    "people": {"faces"},
    "adapter": {"bases", "faces", "pose"},
    "formats": {"adapter", "bases", "faces", "pose"},
    "demo": {"bases", "faces", "pose"},
    "models": {"faces", "formats"},
    "doctor": {"demo", "faces", "models"},
    "evaluation": {"faces", "pose"},
    "training": {"adapter", "bases", "demo", "faces", "pose"},
    "hosts": {"adapter", "bases", "demo", "faces", "formats", "training"},
    "comfy_api": set(),
    "apps": {"comfy_api", "faces"},
    "commands": {"adapter", "demo", "faces", "hosts", "training"},
    "quickstart": set(),
}
BUILDS_DIFFUSERS_MODELS = ROOT / "facecdm" / "demo" / "unet.py"


def imports(path: Path, everywhere: bool) -> Iterator[tuple[str, int]]:
    """(module, level) of a file's imports; with everywhere=False only those that run when it is imported."""

    def walk(node: ast.AST) -> Iterator[ast.AST]:
        for child in ast.iter_child_nodes(node):
            inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test)
            if everywhere or not (inside or typing_only):
                yield child
                yield from walk(child)

    for node in walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or "", node.level


def roots(path: Path, everywhere: bool = True) -> set[str]:
    return {name.partition(".")[0] for name, level in imports(path, everywhere) if level == 0}


def is_host(path: Path, name: str) -> bool:
    return path.is_relative_to(ROOT / "facecdm" / "hosts" / name)


def label(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_the_library_imports_neither_comfyui_nor_nodes(path):
    if not is_host(path, "comfy"):
        assert not roots(path) & COMFYUI
    depth = len(path.relative_to(ROOT / "facecdm").parts)
    assert all(level <= depth for _, level in imports(path, True)), "a relative import leaves facecdm"


def rooms(path: Path) -> set[str]:
    """The packages of the library that a file of another one imports."""
    own = path.relative_to(ROOT / "facecdm").parts
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level == len(own):
            found |= {(node.module or alias.name).partition(".")[0] for alias in node.names}
    return {name for name in found if (ROOT / "facecdm" / name).is_dir()}


@pytest.mark.parametrize("room", ARROWS)
def test_imports_point_down(room):
    for path in (ROOT / "facecdm" / room).rglob("*.py"):
        assert rooms(path) <= ARROWS[room], f"{label(path)} imports a package above its own"


def test_the_arrows_name_every_package_and_form_no_cycle():
    packages = {path.parent.name for path in (ROOT / "facecdm").glob("*/__init__.py")}
    assert packages == ARROWS.keys()
    assert len(list(TopologicalSorter(ARROWS).static_order())) == len(packages)  # raises CycleError for a cycle


@pytest.mark.parametrize("path", LIBRARY, ids=label)
def test_only_its_host_and_the_demos_unet_import_diffusers(path):
    assert is_host(path, "diffusers") or path == BUILDS_DIFFUSERS_MODELS or "diffusers" not in roots(path)


@pytest.mark.parametrize("path", PACK, ids=label)
def test_heavy_packages_are_imported_where_they_are_used(path):
    assert not roots(path, everywhere=False) & HEAVY


@pytest.mark.parametrize("path", [ROOT / "__init__.py", *sorted((ROOT / "nodes").rglob("*.py"))], ids=label)
def test_nodes_import_the_pack_relatively(path):
    """ComfyUI imports the pack under a path-like name: `import facecdm` would be a second copy, or nothing."""
    assert "facecdm" not in roots(path)


@pytest.mark.parametrize("arguments", [["check"], ["format", "--check", "--diff"]], ids=" ".join)
def test_ruff_accepts_the_tree(arguments):
    """Names, imports, line lengths and layout by pyproject.toml; it includes the node registry's rules (no eval, …)."""
    command = [sys.executable, "-m", "ruff", *arguments, "."]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_types():
    """By pyproject.toml; `pyrefly check` says more to an author."""
    beside = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
    command = [shutil.which("pyrefly", path=beside), "check", "--python-interpreter-path", sys.executable]
    assert command[0], "install tests/requirements.txt"
    done = subprocess.run([*command, "--output-format", "min-text"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_package_says_what_it_holds():
    folders = {path.parent for path in LIBRARY}
    silent = [folder for folder in folders if not ast.get_docstring(ast.parse(read(folder / "__init__.py")))]
    assert not silent


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""
