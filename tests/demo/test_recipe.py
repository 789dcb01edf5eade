"""benchmarks/demo_recipe.py: the command line takes its commands and configurations; sizes in texts are replaced."""

import importlib.util
import json
import shutil
import sys

import pytest
import yaml

from facecdm import cli
from facecdm.bases.demo import DEMO
from facecdm.demo.paths import FOLDER
from facecdm.files import REPOSITORY
from facecdm.training import config

BENCHMARKS = REPOSITORY / "benchmarks"


@pytest.fixture(scope="module")
def module():
    sys.path.append(str(BENCHMARKS))  # for `shared`
    spec = importlib.util.spec_from_file_location("demo_recipe", BENCHMARKS / "demo_recipe.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(BENCHMARKS))


@pytest.fixture(params=[False, True], ids=["full", "smoke"])
def recipe(module, tmp_path, monkeypatch, request):
    folders = [f"--{name}={tmp_path / name}" for name in ("faceworld", "comfyui", "models", "begin", "run")]
    monkeypatch.setattr(sys, "argv", ["demo_recipe.py", *folders, *(["--smoke"] if request.param else [])])
    (tmp_path / "run").mkdir()
    return module.Recipe(module.parse())


def test_the_commands_have_options_that_exist(recipe):
    recipe.weights = FOLDER
    recipe.write_workflow()  # a file that a command takes
    commands = [work for stage in recipe.stages() for work in stage.work if not callable(work)]
    ours = [work[2:] for work in commands if work[:2] == ["-m", "facecdm"]]
    assert len(ours) > 5 and len({stage.name for stage in recipe.stages()}) == len(recipe.stages())
    for command in ours:
        cli.parser_of(command[0]).parse_args(command[1:])


@pytest.mark.parametrize("name", ["broad", "drawn"])
def test_the_configurations_are_valid(recipe, name):
    recipe.write(name, getattr(recipe, name)())
    stages = config.read(recipe.run / f"{name}.yaml").plan()
    assert [stage.name for stage in stages] and all(stage.lora_rank == 16 for stage in stages)
    assert yaml.safe_load((recipe.run / f"{name}.yaml").read_text())["base"] == "demo"


def test_what_is_shipped_replaces_every_size(module, tmp_path, monkeypatch):
    base = tmp_path / "facecdm/bases/demo.py"
    for name in ("facecdm/bases/demo.py", *module.TEXTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(REPOSITORY / name, tmp_path / name)
    module.set_size(tmp_path, (DEMO.resolution, DEMO.step), (512, 32))
    assert "resolution=512,\n    step=32," in base.read_text()
    for name in module.TEXTS:
        assert f"{DEMO.resolution} × {DEMO.resolution}" not in (tmp_path / name).read_text(encoding="utf-8")


def test_the_portrait_has_the_size_of_the_weights(recipe):
    recipe.weights = FOLDER
    recipe.write_workflow()
    nodes = json.loads((recipe.run / "portrait.json").read_text()).values()
    sizes = [node["inputs"] for node in nodes if node["class_type"] == "EmptyLatentImage"]
    assert [(size["width"], size["height"]) for size in sizes] == [(DEMO.resolution, DEMO.resolution)]
