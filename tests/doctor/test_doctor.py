"""The doctor names what is missing, from where and into which folder."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from facecdm.cli import main
from facecdm.doctor import command as doctor
from facecdm.doctor import models as doctor_models
from facecdm.doctor.finding import MISSING, NOTE, OK, WARNING

ROOT = Path(__file__).resolve().parents[2]


def findings(found, topic):
    return [finding for finding in found if finding.topic == topic]


def test_a_whole_installation(comfyui, face_models, capsys):
    code = main(["doctor", "--comfyui", str(comfyui), "--base", str(face_models)])
    text = capsys.readouterr().out
    assert code == 0, text
    assert "face pack buffalo_s: det_500m.onnx, w600k_mbf.onnx" in text and "ComfyUI 0.3." in text
    assert "h94/IP-Adapter on Hugging Face" in text and f"into {face_models}/models/clip_vision" in text


def test_json_is_for_programs(comfyui, face_models, capsys):
    assert main(["doctor", "--comfyui", str(comfyui), "--base", str(face_models), "--json"]) == 0
    levels = {finding["topic"]: finding["level"] for finding in json.loads(capsys.readouterr().out)}
    assert levels["insightface"] == levels["face pack"] == OK


def test_no_face_pack(comfyui, tmp_path):
    (tmp_path / "models").mkdir()
    (found,) = findings(doctor.examine(comfyui, tmp_path), "face pack")
    assert found.level == MISSING and str(tmp_path / "models" / "insightface") in found.text
    assert "buffalo_l" in found.advice and "models/insightface/models" in found.advice


def test_a_truncated_pack_is_told_and_another_one_is_enough(comfyui, face_models, tmp_path):
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
    found = doctor_models.check_kind(kind, tmp_path / "models")
    assert found.level == OK and "0.safetensors, 1.safetensors, 2.safetensors and 2 more" in found.text


def test_two_runtimes_are_a_warning(monkeypatch):
    both = ["onnxruntime", "onnxruntime-gpu"]
    monkeypatch.setattr("facecdm.faces.providers.installed_runtimes", lambda: both)
    first = next(iter(doctor.check_runtime()))
    assert first.level == WARNING and "overwrite each other" in first.text
    assert first.advice == "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"


def test_an_old_comfyui_and_a_folder_that_is_none(tmp_path):
    (none,) = doctor.check_comfyui(tmp_path)
    assert none.level == MISSING and "no main.py" in none.text
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "0.3.40"\n')
    (old,) = doctor.check_comfyui(tmp_path)
    assert old.level == MISSING and "0.3.40" in old.text and "0.3.75" in old.advice
    (nowhere,) = doctor.check_comfyui(None)
    assert nowhere.level == MISSING and "--comfyui" in nowhere.advice


def test_a_check_that_breaks_does_not_stop_the_others(monkeypatch, comfyui, face_models):
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


def test_without_torch_the_doctor_still_speaks():
    """A newcomer calls it with the wrong Python: -S -E hides every installed package."""
    command = [sys.executable, "-S", "-E", "-m", "facecdm", "doctor", "--base", "nowhere"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "PyTorch cannot be imported" in done.stdout, done.stdout + done.stderr
    assert "a check failed" not in done.stdout
