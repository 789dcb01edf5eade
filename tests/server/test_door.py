"""The pack as ComfyUI imports it: quickly, without the heavy packages, and with none of the optional ones."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Ours, if they were imported: slow, or not installed everywhere. ComfyUI itself brings transformers.
HEAVY = (
    "insightface",
    "onnxruntime",
    "onnx",
    "cv2",
    "matplotlib",
    "skimage",
    "diffusers",
    "accelerate",
    "peft",
)

IMPORT = """
import asyncio, json, sys
comfyui, pack, hidden = sys.argv[1], sys.argv[2], sys.argv[3].split()

sys.modules.update(dict.fromkeys(hidden))  # as if not installed
sys.path.insert(0, comfyui)
import comfy.cli_args
comfy.cli_args.args.cpu = True
import nodes
before = set(sys.modules)
asyncio.run(nodes.load_custom_node(pack))
ours = [name for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("FaceCDM")]
loaded = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
library = pack.replace(".", "_x_") + ".facecdm."  # ComfyUI names the pack's module after its folder
own = sorted(name.removeprefix(library) for name in sys.modules if name.startswith(library))
print(json.dumps({"nodes": ours, "modules": loaded, "own": own}))
"""


def import_pack(comfyui, hidden=(), clone: Path = ROOT) -> dict:
    command = [sys.executable, "-c", IMPORT, str(comfyui), str(clone), " ".join(hidden)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=comfyui, env=dict(os.environ))
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_pack_imports_and_lists_its_nodes(in_comfy):
    assert in_comfy.nodes and all(name.startswith("FaceCDM") for name in in_comfy.nodes)
    assert not hasattr(in_comfy.pack, "NODE_CLASS_MAPPINGS")  # even an empty one would hide the V3 door


def test_the_import_is_light(comfyui, in_comfy, tmp_path):
    """The modules that take long are not imported. The clone has the name that docs/install.md gives it."""
    clone = tmp_path / "facecdm"
    clone.symlink_to(ROOT, target_is_directory=True)
    loaded = import_pack(comfyui, clone=clone)
    assert sorted(loaded["nodes"]) == sorted(in_comfy.nodes)
    assert not set(HEAVY) & set(loaded["modules"])
    assert "training.stages" in loaded["own"]
    assert not {
        "training.trainer",
        "training.dataset.pipeline",
        "demo.train",
        "apps.batch.execution.runner",
        "evaluation.evaluate",
        "hosts.comfy.training.denoiser",
    } & set(loaded["own"])


def test_without_optional_packages_every_node_is_there(comfyui, in_comfy):
    assert sorted(import_pack(comfyui, hidden=HEAVY)["nodes"]) == sorted(in_comfy.nodes)


def test_the_model_folder_lists_safetensors_only(in_comfy):
    import folder_paths

    folder = in_comfy.base / "models" / "facecdm"
    folder.mkdir(exist_ok=True)
    (folder / "door-test.safetensors").touch()
    (folder / "notes.txt").touch()
    names = folder_paths.get_filename_list("facecdm")
    assert "door-test.safetensors" in names and "notes.txt" not in names


def test_the_running_server_has_the_nodes(server, in_comfy):
    from facecdm.comfy_api.client import Client

    async def get_object_info():
        async with Client(server.address) as client:
            return await client.object_info()

    offered = asyncio.run(get_object_info())
    assert set(in_comfy.nodes) <= set(offered)
    about_us = [line for line in server.log.read_text().splitlines() if "custom_nodes" in line]
    assert not any("FAILED" in line or "Cannot import" in line for line in about_us), about_us


@pytest.mark.parametrize("field", ["DESCRIPTION", "CATEGORY"])
def test_every_node_says_what_it_is(in_comfy, field):
    for name, node in in_comfy.nodes.items():
        assert getattr(node, field), f"{name} has no {field.lower()}"
    assert all(node.CATEGORY.startswith("FaceCDM") for node in in_comfy.nodes.values())


def test_every_input_has_a_tooltip(in_comfy):
    for name, node in in_comfy.nodes.items():
        for item in node.GET_SCHEMA().inputs:
            assert item.tooltip, f"{name}.{item.id} has no tooltip"
