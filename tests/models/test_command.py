"""`python -m facecdm get`: what is needed, what is asked, and what lies on the disk afterwards."""

import dataclasses
import io
import json
import sys

import pytest
from hub import Hub, serving

from facecdm import tensor_file
from facecdm.cli import main
from facecdm.errors import FaceCDMError
from facecdm.files import REPOSITORY
from facecdm.models import catalogue, needs
from facecdm.models.command import markdown
from facecdm.models.model_file import PACK_FOLDER, ModelFile
from workflows.source import PLANS

SMALL = ModelFile("checkpoints", "small.safetensors", "someone/small", "small.safetensors", 1, "MIT", "small model")


@pytest.fixture
def base(tmp_path, monkeypatch):
    """An empty base directory, a table with one small file, and a local hub that has it."""
    monkeypatch.setattr(catalogue, "FILES", (SMALL,))
    monkeypatch.setattr(catalogue, "ALL", (SMALL,))
    with serving(Hub({"/someone/small/resolve/main/small.safetensors": b"weights"})) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.address)
        (tmp_path / "models").mkdir()
        yield tmp_path


def get(base, *arguments: str) -> int:
    return main(["get", "--base", str(base), *arguments])


def test_a_file_is_fetched_after_one_question(base, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True)
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    assert get(base, "small.safetensors") == 0
    assert (base / "models" / "checkpoints" / "small.safetensors").read_bytes() == b"weights"
    printed = capsys.readouterr().out
    assert len(asked) == 1 and printed.index("MIT") < printed.index("[1/1]"), "licence and size come first"


@pytest.mark.parametrize("answers", [[""], []], ids=["Enter", "Ctrl-D"])
def test_no_is_no(base, monkeypatch, answers):
    typed = io.StringIO("".join(f"{answer}\n" for answer in answers))
    monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys, "stdin", typed)
    assert get(base, "small.safetensors") == 1
    assert not (base / "models" / "checkpoints").exists()


def test_without_a_terminal_yes_is_said_in_the_command(base, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False)
    assert get(base, "small.safetensors") == 1
    assert "--yes" in capsys.readouterr().err
    assert get(base, "small.safetensors", "--yes") == 0


def test_a_dry_run_fetches_nothing(base, capsys):
    assert get(base, "small.safetensors", "--dry-run") == 0
    assert "someone/small" in capsys.readouterr().out
    assert not (base / "models" / "checkpoints").exists()


def test_what_is_there_is_not_fetched_again(base, capsys):
    assert get(base, "small.safetensors", "--yes") == 0
    (base / "models" / "checkpoints" / "small.safetensors").write_bytes(b"mine")
    assert get(base, "small.safetensors", "--yes") == 0
    assert "there already" in capsys.readouterr().out
    assert (base / "models" / "checkpoints" / "small.safetensors").read_bytes() == b"mine"


@pytest.mark.parametrize("is_safe", [True, False])
@pytest.mark.parametrize("have", [True, False])
def test_a_torch_that_does_not_read_a_file_is_named_before_it_is_fetched(base, capsys, monkeypatch, is_safe, have):
    monkeypatch.setattr(tensor_file, "pickles_are_safe", lambda: is_safe)
    pickled = dataclasses.replace(SMALL, folder="clip_vision", name="tower.pt")
    monkeypatch.setattr(catalogue, "FILES", (SMALL, pickled))
    if have:
        (base / "models" / "clip_vision").mkdir()
        (base / "models" / "clip_vision" / "tower.pt").write_bytes(b"mine")
    assert get(base, "tower.pt", "--dry-run") == 0
    assert ("torch 2.10 or newer" in capsys.readouterr().out) == (not is_safe)
    assert get(base, "small.safetensors", "--dry-run") == 0
    assert "warning" not in capsys.readouterr().out


def test_a_file_in_a_folder_of_extra_model_paths_is_not_fetched(base, capsys, tmp_path):
    """As ComfyUI reads the file: several folders of a kind, relative to base_path, which is relative to the file."""
    more = tmp_path / "disk" / "b"
    more.mkdir(parents=True)
    (more / "small.safetensors").write_bytes(b"mine")
    config = tmp_path / "extra.yaml"
    config.write_text("mine:\n  base_path: disk\n  checkpoints: |\n    a\n    b\nempty:\n")
    assert get(base, "small.safetensors", "--yes", "--extra-model-paths-config", str(config)) == 0
    assert f"there already: {more / 'small.safetensors'}" in capsys.readouterr().out
    assert not (base / "models" / "checkpoints").exists()
    config.write_text("mine: [a")
    assert get(base, "small.safetensors", "--extra-model-paths-config", str(config)) == 1
    assert "extra.yaml cannot be read" in capsys.readouterr().err


def test_an_empty_file_and_an_incomplete_pack_are_named(base, capsys, monkeypatch):
    (base / "models" / "checkpoints").mkdir()
    (base / "models" / "checkpoints" / "small.safetensors").touch()
    assert get(base, "small.safetensors", "--yes") == 1
    assert "small.safetensors is empty: move it away" in capsys.readouterr().err
    monkeypatch.setattr(catalogue, "ALL", (SMALL, catalogue.PACKS["antelopev2"]))
    (base / "models" / PACK_FOLDER / "antelopev2").mkdir(parents=True)
    assert get(base, "antelopev2", "--yes") == 1
    assert "antelopev2 is not a complete face pack" in capsys.readouterr().err


def test_a_complete_pack_beside_the_folder_models_is_found(base, capsys, face_models, monkeypatch):
    monkeypatch.setattr(catalogue, "ALL", (catalogue.PACKS["buffalo_s"],))
    (base / "models" / "insightface").mkdir()
    (base / "models" / "insightface" / "buffalo_s").symlink_to(face_models / "models" / PACK_FOLDER / "buffalo_s")
    assert get(base, "buffalo_s", "--yes") == 0
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["instantid", "kolors-plus"])
def test_a_family_without_files_for_a_base_model_is_an_error(base, capsys, name):
    assert get(base, name, "--for", "SD1.5") == 1
    assert f"no file of {name} for SD1.5" in capsys.readouterr().err


def test_a_named_comfyui_is_the_one(base, capsys, tmp_path, monkeypatch):
    """Also where the pack is in another, and where an environment variable names a base directory."""
    monkeypatch.setenv("FACECDM_BASE", str(base))
    named = tmp_path / "named"
    (named / "comfy").mkdir(parents=True)
    assert main(["get", "small.safetensors", "--dry-run", "--comfyui", str(named)]) == 1
    assert f"--comfyui {named} is no ComfyUI folder" in capsys.readouterr().err
    (named / "main.py").touch()
    assert main(["get", "small.safetensors", "--dry-run", "--comfyui", str(named)]) == 0
    assert f"GB into {named / 'models'}" in capsys.readouterr().out
    monkeypatch.setenv("FACECDM_COMFYUI", str(tmp_path / "typo"))
    assert main(["get", "small.safetensors", "--dry-run"]) == 1
    assert "FACECDM_COMFYUI" in capsys.readouterr().err


def test_an_unknown_name_lists_what_there_is(base, capsys):
    assert get(base, "nothing-of-that-name") == 1
    assert "sdxl_pulid" in capsys.readouterr().err


def test_the_list_names_every_file_and_workflow(capsys):
    assert main(["get", "--list"]) == 0
    printed = capsys.readouterr().out
    assert all(file.url in printed for file in catalogue.ALL) and "sdxl_pulid" in printed
    assert "faceid-plusv2" in printed, "the families"


def test_the_page_of_model_files_is_the_table():
    page = (REPOSITORY / "docs" / "models.md").read_text(encoding="utf-8")
    assert page.partition("\n## ")[2] == markdown().removeprefix("## ") + "\n", (
        "write it anew from models.command.markdown"
    )


def test_an_unknown_name_lists_all_face_packs():
    """Also those of which the table has single files."""
    with pytest.raises(FaceCDMError, match="Face packs: antelopev2, arcface_ir_se50, auraface, buffalo_l, buffalo_s"):
        needs.needs_of("")


def test_a_family_is_fetched_with_its_pack_and_tower():
    found = needs.needs_of("faceid-plusv2", "SDXL")
    assert [file.name for file in found.files] == [
        "ip-adapter-faceid-plusv2_sdxl.bin",
        "buffalo_l",
        "CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    ]
    assert len(needs.needs_of("faceid-plusv2").files) == 4, "for both base models"


@pytest.mark.parametrize("name", ["arcface_ir_se50", "flux_infiniteyou"])
def test_a_pack_without_a_detector_is_fetched_with_the_pack_that_has_one(name):
    files = [file.name for file in needs.needs_of(name).files if file.folder == PACK_FOLDER]
    assert files == ["arcface_ir_se50/recognition_arcface_ir_se50.pth", "antelopev2"]


@pytest.mark.parametrize("name", ["sdxl_faceid_plusv2", "sdxl_instantid", "portrait"])
def test_a_workflow_is_known_by_its_name_and_its_title(name):
    """The title is the template's file; a copy that a user saved is read in the same way."""
    title = PLANS[name].title
    expected = needs.needs_of(name)
    assert expected.files and not expected.unknown
    path = str(REPOSITORY / "workflows" / f"{title}.json")
    for other in (title, f"{title}.json", path):
        assert set(needs.needs_of(other).files) == set(expected.files)


def test_models_inside_a_subgraph_are_found():
    path = REPOSITORY / "subgraphs" / "Person from a photo (SDXL FaceID PlusV2).json"
    names = {file.name for file in needs.needs_of(str(path)).files}
    assert {"buffalo_l", "ip-adapter-faceid-plusv2_sdxl.bin", catalogue.VIT_H} <= names


def test_models_that_the_table_lacks_are_named(base, capsys, tmp_path):
    path = tmp_path / "mine.json"
    nodes = {"1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "my_own.safetensors"}}}
    path.write_text(json.dumps(nodes))
    assert get(base, str(path)) == 0
    assert "get it yourself: my_own.safetensors" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["", "[1]", "{", '{"1": 2}', '{"1": {"class_type": "A"}}', "[" * 100_000])
def test_a_file_that_is_no_workflow_is_an_error(base, capsys, tmp_path, text):
    path = tmp_path / "odd.json"
    path.write_text(text)
    assert get(base, str(path)) == 1
    assert "no workflow that ComfyUI saved or exported" in capsys.readouterr().err
