"""The doctor names what is missing, where to get it, and into which folder it goes."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from facecdm import comfyui_folders as folders
from facecdm.cli import main
from facecdm.doctor import checks as doctor
from facecdm.doctor import models as doctor_models
from facecdm.doctor.command import lines
from facecdm.doctor.finding import MISSING, NOTE, OK, WARNING, Finding
from facecdm.models.folders import ModelFolders

ROOT = Path(__file__).resolve().parents[2]


def findings(found, topic):
    return [finding for finding in found if finding.topic == topic]


def test_a_whole_installation(comfyui, face_models, capsys):
    code = main(["doctor", "--comfyui", str(comfyui), "--base", str(face_models)])
    text = capsys.readouterr().out
    assert code == 0, text
    version = runpy.run_path(str(comfyui / "comfyui_version.py"))["__version__"]
    assert "face pack buffalo_s: det_500m.onnx, w600k_mbf.onnx" in text and f"ComfyUI {version} in " in text
    assert "facecdm get CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors" in text


def test_a_torch_that_reads_no_pickle_safely_is_named(monkeypatch):
    import torch

    monkeypatch.setattr(torch, "__version__", "2.9.1")
    found = [finding for finding in doctor.check_torch() if finding.level == WARNING]
    assert [finding.topic for finding in found] == ["torch"]
    assert ".bin, .pt or .pth" in found[0].text and "2.10" in found[0].advice


def test_json_is_for_programs(comfyui, face_models, capsys):
    assert main(["doctor", "--comfyui", str(comfyui), "--base", str(face_models), "--json"]) == 0
    levels = {finding["topic"]: finding["level"] for finding in json.loads(capsys.readouterr().out)}
    assert levels["insightface"] == levels["face pack"] == OK


def test_what_a_workflow_lacks_is_listed_with_one_command(comfyui, tmp_path):
    adapter = tmp_path / "models" / "ipadapter" / "ip-adapter-faceid-plusv2_sdxl.bin"
    adapter.parent.mkdir(parents=True)
    adapter.write_bytes(b"weights")
    found = findings(doctor.examine(comfyui, tmp_path, "sdxl_faceid_plusv2"), "workflow")
    assert [finding.level for finding in found].count(OK) == 1 and str(adapter) in str(found)
    lacking = [finding for finding in found if finding.level == MISSING]
    assert len(lacking) == 3 and any("CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors" in one.text for one in lacking)
    assert all("https://" in finding.advice for finding in lacking)
    assert found[-1].advice == "python -m facecdm get sdxl_faceid_plusv2"


def test_no_face_pack(comfyui, tmp_path):
    (tmp_path / "models").mkdir()
    (found,) = findings(doctor.examine(comfyui, tmp_path), "face pack")
    assert found.level == MISSING and str(tmp_path / "models" / "insightface") in found.text
    assert "`python -m facecdm get buffalo_l`" in found.advice and "models/insightface/models" in found.advice


def test_a_truncated_pack_is_reported_and_another_one_is_enough(comfyui, face_models, tmp_path):
    packs = tmp_path / "models" / "insightface" / "models"
    whole = face_models / "models" / "insightface" / "models" / "buffalo_s"
    shutil.copytree(whole, packs / "cut")
    (packs / "cut" / "det_500m.onnx").write_bytes((whole / "det_500m.onnx").read_bytes()[:5000])
    (broken, missing) = findings(doctor.examine(comfyui, tmp_path), "face pack")
    assert broken.level == WARNING and "det_500m.onnx" in broken.text and missing.level == MISSING
    shutil.copytree(whole, packs / "antelopev2" / "antelopev2")
    levels = [finding.level for finding in findings(doctor.examine(comfyui, tmp_path), "face pack")]
    assert sorted(levels) == [OK, WARNING]


def test_models_that_are_there_are_named(tmp_path):
    folder = tmp_path / "models" / "checkpoints" / "sub"
    folder.mkdir(parents=True)
    for number in range(5):
        (folder / f"{number}.safetensors").touch()
    kind = next(kind for kind in doctor_models.OPTIONAL_MODELS if kind.topic == "checkpoint")
    found = doctor_models.check_kind(kind, ModelFolders(tmp_path / "models"))
    assert found.level == OK and "0.safetensors, 1.safetensors, 2.safetensors and 2 more" in found.text


def test_two_runtimes_are_a_warning(monkeypatch):
    both = ["onnxruntime", "onnxruntime-gpu"]
    monkeypatch.setattr("facecdm.faces.providers.installed_runtimes", lambda: both)
    first = next(iter(doctor.check_runtime()))
    assert first.level == WARNING and "overwrite each other" in first.text
    assert first.advice == "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"


def test_an_old_comfyui_and_a_folder_that_is_no_comfyui(tmp_path):
    (none,) = doctor.check_comfyui(tmp_path)
    assert none.level == MISSING and "is no ComfyUI folder" in none.text
    (tmp_path / "main.py").touch()
    (tmp_path / "comfy").mkdir()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.40"\n')
    (old,) = doctor.check_comfyui(tmp_path)
    assert old.level == MISSING and "0.3.40" in old.text and "0.3.75" in old.advice
    (nowhere,) = doctor.check_comfyui(None)
    assert nowhere.level == MISSING and "--comfyui" in nowhere.advice


def test_a_check_that_fails_does_not_stop_the_others(monkeypatch, comfyui, face_models):
    monkeypatch.setattr(doctor, "check_optional", lambda: (_ for _ in ()).throw(RuntimeError("odd")))
    found = list(doctor.examine(comfyui, face_models))
    assert findings(found, "doctor")[0].text == "a check failed with RuntimeError: odd"
    assert findings(found, "face pack")[0].level == OK


def test_a_missing_package_is_a_note(monkeypatch):
    monkeypatch.setattr(doctor, "version", lambda package: None)
    assert {finding.level for finding in doctor.check_optional()} == {NOTE}


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 0), ([], 0), (["nonsense"], 2)])
def test_the_command_line(arguments, code):
    command = [sys.executable, "-m", "facecdm", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == code and "Traceback" not in done.stderr


def test_without_torch_there_is_still_a_report():
    """A newcomer calls it with the wrong Python: -S -E hides every installed package."""
    command = [sys.executable, "-S", "-E", "-m", "facecdm", "doctor", "--base", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "PyTorch cannot be imported" in done.stdout, done.stdout + done.stderr
    assert "a check failed" not in done.stdout


def test_a_reader_that_closes_early_causes_no_error(comfyui, face_models):
    command = [sys.executable, "-m", "facecdm", "doctor", "--comfyui", str(comfyui), "--base", str(face_models)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    errors = process.stderr.read()
    assert process.wait() == 0 and "Error" not in errors and "Exception" not in errors, errors


def test_a_separate_base_directory_is_the_one_whose_custom_nodes_hold_the_pack(monkeypatch, face_models, tmp_path):
    """As ComfyUI Desktop has it: the pack and the models are far from ComfyUI's own folder."""
    monkeypatch.delenv("FACECDM_BASE", raising=False)
    monkeypatch.delenv("FACECDM_COMFYUI", raising=False)
    pack = tmp_path / "custom_nodes" / "facecdm"
    pack.mkdir(parents=True)
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(folders, "REPOSITORY", pack)
    monkeypatch.setattr(folders, "QUICKSTART", pack / ".quickstart")
    monkeypatch.chdir(pack)
    assert folders.find_comfyui() is None and folders.find_base(None) == tmp_path
    (tmp_path / "models" / "insightface").symlink_to(face_models / "models" / "insightface")
    found = list(doctor.examine(None, tmp_path))
    assert findings(found, "face pack")[0].level == OK and not any(one.level == MISSING for one in found)
    assert "not known" in findings(found, "comfyui")[0].text


def test_a_workflow_has_what_extra_model_paths_adds(comfyui, tmp_path):
    library = tmp_path / "library" / "checkpoints"
    library.mkdir(parents=True)
    (library / "sd_xl_base_1.0.safetensors").write_bytes(b"weights")
    config = tmp_path / "extra.yaml"
    config.write_text("a:\n  base_path: library\n  checkpoints: checkpoints\n")
    (tmp_path / "models").mkdir()
    found = findings(doctor.examine(comfyui, tmp_path, "sdxl_instantid", [config]), "workflow")
    assert [one.level for one in found if "sd_xl_base" in one.text] == [OK]
    assert findings(doctor.examine(comfyui, tmp_path, None, [config]), "checkpoint")[0].level == OK


def test_the_demo_model_is_the_one_in_the_package():
    (found,) = doctor_models.check_demo()
    assert found.level == OK, found


@pytest.mark.parametrize(
    ("topics", "verdict"),
    [
        (["demo model"], "Demo portraits can be made here. For SD1.5 and SDXL get"),
        (["demo model", "checkpoint", "adapter"], "Portraits can be made here."),
        (["checkpoint"], "For SD1.5 and SDXL get"),
    ],
)
def test_the_verdict_says_which_portraits(topics, verdict):
    assert list(lines([Finding(OK, topic, "") for topic in topics]))[-1].startswith(verdict)


@pytest.mark.parametrize(("version", "level"), [((3, 9), MISSING), ((3, 10), NOTE), ((3, 11), OK), ((3, 13), NOTE)])
def test_python_versions(monkeypatch, version, level):
    monkeypatch.setattr(sys, "version_info", (*version, 0))
    (found,) = doctor.check_python()
    assert found.level == level


def test_the_encoder_is_named_as_the_workflows_name_it():
    workflows = [path.read_text(encoding="utf-8") for path in (ROOT / "workflows/api").glob("*.json")]
    kind = next(kind for kind in doctor_models.OPTIONAL_MODELS if kind.topic == "clip_vision")
    name = kind.advice.partition("`, ")[0].rpartition(" ")[2]
    assert name.endswith(".safetensors") and any(name in text for text in workflows)
