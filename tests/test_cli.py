"""The command line: help of every command, exit codes, SIGTERM, and the installed command in any folder."""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from facecdm import cli
from facecdm.faces.packs import default_pack
from facecdm.quickstart.paths import python_of

ROOT = Path(__file__).resolve().parents[1]


def parsers(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """A command's parser, and those of its own commands."""
    own = [one for action in parser._actions if isinstance(action.choices, dict) for one in action.choices.values()]
    return [parser, *(found for one in own for found in parsers(one))]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_every_help_has_examples(name):
    for parser in parsers(cli.parser_of(name)):
        examples = parser.format_help().partition("examples:\n")[2].strip().splitlines()
        assert examples and all(f"{line.strip()} ".startswith(f"{parser.prog} ") for line in examples), parser.prog
    assert (len(parsers(cli.parser_of(name))) > 1) == (name == "demo")


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_is_printed(name, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([name, "--help"])
    assert end.value.code == 0 and "examples:\n  python -m facecdm " in capsys.readouterr().out


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_examples_parse(name):
    """Files of the examples are not there: a type that checks that ends with exit code 2 and says so."""
    for example in cli.COMMANDS[name].examples:
        parser = cli.parser_of(name)
        for action in parser._actions:
            if getattr(action.type, "__name__", "") == "existing_file":
                action.type = Path
        parser.parse_args(shlex.split(example)[1:])


def test_the_overview_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([])
    text = capsys.readouterr().out
    assert end.value.code == 0 and all(name in text for name in cli.COMMANDS)


def test_a_command_that_is_none(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(["potrait"])
    assert end.value.code == 2 and "invalid choice" in capsys.readouterr().err


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_command_has_its_own_default_pack(name):
    packs = [action for action in cli.parser_of(name)._actions if "--pack" in action.option_strings]
    assert all(action.default is None and "buffalo_l if it is there" in action.help for action in packs)


@pytest.mark.parametrize(
    ("there", "chosen"),
    [
        (["buffalo_s", "buffalo_l"], "buffalo_l"),
        (["buffalo_s", "antelopev2"], "antelopev2"),
        (["buffalo_s"], "buffalo_s"),
        ([], "buffalo_l"),
    ],
)
def test_the_default_pack(tmp_path, there, chosen):
    for name in there:
        (tmp_path / "models" / name).mkdir(parents=True)
        (tmp_path / "models" / name / "x.onnx").touch()
    assert default_pack([tmp_path]) == chosen


BARE = {  # a command line that cannot run in a Python without packages, and the first package that it imports
    "get": (["sdxl_pulid", "--dry-run", "--base", "FOLDER"], "torch"),
    "portrait": (["--server", "127.0.0.1:9", "--output", "FOLDER/out"], "PIL"),
    "gallery": (["--server", "127.0.0.1:9", "--output", "FOLDER/out", "--docs", "FOLDER/docs"], "aiohttp"),
    "batch": (["--help"], "pydantic"),
    "dataset": (["FOLDER", "FOLDER/data"], "numpy"),
    "train": (["FOLDER/none.yaml"], "pydantic"),
    "train-location": (["FOLDER/none.safetensors", "--data", "FOLDER", "--out", "FOLDER"], "torch"),
    "evaluate": (["FOLDER/none.csv", "--faces", "FOLDER"], "tqdm"),
    "demo": (["train", "all", "--data", "FOLDER", "--tokenizer", "FOLDER"], "numpy"),
}


@pytest.mark.parametrize("name", BARE)
def test_a_python_without_the_packages(name, tmp_path):
    """As the system's Python: -S hides site-packages."""
    arguments, package = BARE[name]
    command = [sys.executable, "-S", "-E", "-m", "facecdm", name]
    command += [word.replace("FOLDER", str(tmp_path)) for word in arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"facecdm {name}: {sys.executable} has no package {package}: run this with the Python" in done.stderr


def test_a_missing_module_of_our_own_is_a_traceback(monkeypatch):
    monkeypatch.setitem(cli.COMMANDS, "doctor", cli.COMMANDS["doctor"]._replace(module=".doctor.nowhere"))
    with pytest.raises(ModuleNotFoundError, match="facecdm.doctor.nowhere"):
        cli.main(["doctor"])


@pytest.mark.skipif(os.name == "nt", reason="signals")
def test_sigterm_runs_the_clean_up(monkeypatch, tmp_path):
    """Also if it comes twice."""

    def main(options):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            (tmp_path / "cleaned").touch()

    monkeypatch.setattr("facecdm.doctor.command.main", main)
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as end:
        cli.main(["doctor"])
    assert end.value.code == 143 and (tmp_path / "cleaned").exists() and signal.getsignal(signal.SIGTERM) == before


@pytest.mark.slow
@pytest.mark.parametrize("editable", [False, True])
def test_the_installed_command_works_in_any_folder(tmp_path, editable):
    source, venv, folder = (tmp_path / name for name in ("source", "venv", "elsewhere"))
    for made in (source, folder):
        made.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        (source / name).write_bytes((ROOT / name).read_bytes())
    shutil.copytree(ROOT / "facecdm", source / "facecdm", ignore=shutil.ignore_patterns("__pycache__"))
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    (site,) = venv.glob("Lib/site-packages" if os.name == "nt" else "lib/python*/site-packages")
    (site / "ours.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    pip = [sys.executable, "-m", "pip", "--python", python_of(venv), "install", "--no-deps", "--no-index"]
    done = subprocess.run(
        [*pip, "--no-build-isolation", *(["-e"] if editable else []), source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    def run(*arguments: str) -> subprocess.CompletedProcess:
        command = [python_of(venv).with_name("facecdm.exe" if os.name == "nt" else "facecdm"), *arguments]
        return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=400)

    done = run("get", "--help")
    assert done.returncode == 0 and "examples:" in done.stdout, done.stderr
    (folder / "plan.yaml").write_text("jobs: 3\n")
    done = run("batch", "plan.yaml", "--check")
    assert done.returncode == 1 and "workflow: is missing" in done.stderr
    done = run("portrait", "--comfyui", str(folder))
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "without the node pack: name a workflow" in done.stderr
