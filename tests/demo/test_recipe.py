"""benchmarks/demo_recipe.py: the command line takes its commands and configurations; sizes in texts are replaced."""

import importlib
import json
import shutil
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

from facecdm import cli
from facecdm.adapter.native import read_config
from facecdm.bases.demo import DEMO
from facecdm.demo.paths import ADAPTER, FOLDER
from facecdm.files import REPOSITORY
from facecdm.tensor_file import read_tensors
from facecdm.training import config

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module")
def rooms():
    """The modules of benchmarks/recipe, and `command`, benchmarks/demo_recipe.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        names = ("plan", "configurations", "files", "shipping", "stages")
        rooms = SimpleNamespace(**{name: importlib.import_module(f"recipe.{name}") for name in names})
        rooms.command = importlib.import_module("demo_recipe")
        yield rooms


@pytest.fixture(params=[False, True], ids=["full", "smoke"])
def plan(rooms, tmp_path, monkeypatch, request):
    folders = [f"--{name}={tmp_path / name}" for name in ("faceworld", "comfyui", "models", "begin", "run")]
    monkeypatch.setattr(sys, "argv", ["demo_recipe.py", *folders, *(["--smoke"] if request.param else [])])
    (tmp_path / "run").mkdir()
    plan = rooms.plan.Plan(rooms.command.parse())
    plan.weights = FOLDER
    return plan


def test_the_commands_have_options_that_exist(rooms, plan):
    rooms.files.write_workflow(plan)  # a file that a command takes
    stages = rooms.stages.stages(plan)
    commands = [work for stage in stages for work in stage.work if not callable(work)]
    ours = [work[2:] for work in commands if work[:2] == ["-m", "facecdm"]]
    assert len(ours) > 5 and len({stage.name for stage in stages}) == len(stages)
    for command in ours:
        cli.parser_of(command[0]).parse_args(command[1:])


@pytest.mark.parametrize("name", ["broad", "drawn"])
def test_the_configurations_are_valid(rooms, plan, name):
    rooms.configurations.write(plan, name)
    stages = config.read(plan.run / f"{name}.yaml").plan()
    assert [stage.name for stage in stages] and all(stage.lora_rank == 16 for stage in stages)
    assert yaml.safe_load((plan.run / f"{name}.yaml").read_text())["base"] == "demo"


def test_a_training_may_begin_with_an_adapter_whose_lora_is_larger(rooms, tmp_path, monkeypatch):
    folders = [f"--{name}={tmp_path / name}" for name in ("faceworld", "comfyui", "models", "begin", "run")]
    monkeypatch.setattr(sys, "argv", ["demo_recipe.py", *folders, f"--begin-adapter={ADAPTER}"])
    plan = rooms.plan.Plan(rooms.command.parse())
    rooms.files.begin_adapter(plan)
    rooms.configurations.write(plan, "broad")
    begun = config.read(plan.run / "broad.yaml")
    assert read_config(begun.adapter) == read_config(ADAPTER)
    downs = [value for name, value in read_tensors(begun.lora)[0].items() if name.endswith("lora_down.weight")]
    assert {len(down) for down in downs} == {rooms.plan.LORA_RANK}
    assert begun.plan()[0].steps == plan.lengths.broad_further


def test_a_shortened_lora_is_the_nearest_of_its_rank(rooms):
    rng = torch.Generator().manual_seed(0)
    down, up = torch.randn(6, 4, 3, 3, generator=rng), torch.randn(8, 6, 1, 1, generator=rng)
    whole = {"a.alpha": torch.tensor(3.0), "a.lora_down.weight": down, "a.lora_up.weight": up}

    def product(tensors):
        scale = tensors["a.alpha"] / len(tensors["a.lora_down.weight"])
        return scale * tensors["a.lora_up.weight"].flatten(1) @ tensors["a.lora_down.weight"].flatten(1)

    u, values, v = torch.linalg.svd(product(whole), full_matrices=False)
    nearest = (u[:, :2] * values[:2]) @ v[:2]
    assert torch.allclose(product(rooms.files.shortened(whole, 2)), nearest, atol=1e-4)
    assert torch.allclose(product(rooms.files.shortened(whole, 16)), product(whole), atol=1e-4)


def test_what_is_shipped_replaces_every_size(rooms, tmp_path):
    base = tmp_path / "facecdm/bases/demo.py"
    for name in ("facecdm/bases/demo.py", *rooms.shipping.SIZED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    rooms.shipping.set_size(tmp_path, (DEMO.resolution, DEMO.step), (512, 32))
    assert "resolution=512,\n    step=32," in base.read_text()
    for name in rooms.shipping.SIZED:
        assert f"{DEMO.resolution} × {DEMO.resolution}" not in (tmp_path / name).read_text(encoding="utf-8")


def test_the_portrait_has_the_size_of_the_weights(rooms, plan):
    rooms.files.write_workflow(plan)
    nodes = json.loads((plan.run / "portrait.json").read_text()).values()
    sizes = [node["inputs"] for node in nodes if node["class_type"] == "EmptyLatentImage"]
    assert [(size["width"], size["height"]) for size in sizes] == [(DEMO.resolution, DEMO.resolution)]


def test_functions_run_and_their_commands_too(rooms, plan, monkeypatch):
    """The averages that were kept are exported once, and measured together."""
    for pictures in (100, 64):
        (plan.run / "base" / f"unet-{pictures}.pt").parent.mkdir(exist_ok=True)
        (plan.run / "base" / f"unet-{pictures}.pt").touch()
    (plan.run / "curve").mkdir()
    (plan.run / "curve" / "unet-64.safetensors").touch()
    ran, plan.how.only = [], ["curve"]
    monkeypatch.setattr(rooms.stages, "execute", lambda plan, stage, command: ran.append(command))
    rooms.stages.run(plan)
    export, bars = ran
    assert export[2:5] == ["demo", "train", "export"] and str(plan.run / "base" / "unet-100.pt") in export
    measured = [str(plan.run / "curve" / f"unet-{pictures}.safetensors") for pictures in (64, 100)]
    assert bars[bars.index("--weights") + 1 :][:2] == measured and (plan.run / "done" / "curve").is_file()
