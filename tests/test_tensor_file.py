"""Files from outside: what they claim is checked first, and every refusal is a BadFile within seconds."""

import ast
import inspect
import json
import os
import pickle
import struct
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from facecdm.adapter.native import load_adapter
from facecdm.errors import BadFile
from facecdm.formats.imported import load_any
from facecdm.saved_folder import open_model
from facecdm.tensor_file import check_weights, count_numbered, read_tensors

FP8 = (torch.float8_e4m3fn, torch.float8_e5m2)


@pytest.fixture(autouse=True)
def within_seconds():
    started = time.process_time()
    yield
    assert time.process_time() - started < 10


def test_nested_tensors_are_flattened(tmp_path):
    torch.save({"a": {"b": torch.ones(2), "c": {}}, "d": torch.zeros(1), "step": 3}, tmp_path / "a.bin")
    tensors, metadata = read_tensors(tmp_path / "a.bin")
    assert list(tensors) == ["a.b", "d"] and metadata == {}


@pytest.mark.parametrize("kind", ["directory", "pipe", "missing"])
def test_not_a_file(tmp_path, kind):
    path = tmp_path / "a.safetensors"
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        if not hasattr(os, "mkfifo"):
            pytest.skip("no named pipes here")
        os.mkfifo(path)
    with pytest.raises(BadFile, match="a.safetensors cannot be read: it is not a file"):
        read_tensors(path)


def test_shared_parts_that_unfold_without_end(tmp_path):
    """40 dicts, each of them twice in the next: 2^40 names."""
    part = {"x": torch.ones(1)}
    for _ in range(40):
        part = {"a": part, "b": part}
    torch.save(part, tmp_path / "a.bin")
    with pytest.raises(BadFile, match="more than 50,000 entries"):
        read_tensors(tmp_path / "a.bin")


def test_a_tensor_that_claims_more_than_the_file(tmp_path):
    """One number, stretched to 40 GB."""
    torch.save({"x": torch.ones(1).expand(100_000, 100_000)}, tmp_path / "a.bin")
    with pytest.raises(BadFile, match=r"claim 40,000,000,000 bytes"):
        read_tensors(tmp_path / "a.bin")


def test_tensors_without_data(tmp_path):
    torch.save({"x": torch.ones(2, device="meta")}, tmp_path / "a.bin")
    with pytest.raises(BadFile, match="x is not a plain tensor"):
        read_tensors(tmp_path / "a.bin")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, *FP8])
def test_finite_weights_of_every_dtype(dtype):
    check_weights("x", torch.ones(3).to(dtype), "a.bin")
    with pytest.raises(BadFile, match="a.bin: x holds NaN or infinity"):
        check_weights("x", torch.tensor([1.0, float("nan")]).to(dtype), "a.bin")


def test_integers_are_no_weights():
    with pytest.raises(BadFile, match="a.bin: x holds int64, not weights"):
        check_weights("x", torch.ones(2).long(), "a.bin")


def test_numbered_names():
    assert count_numbered(["layers.0.a", "layers.1.a", "layers.1.b", "other.7"], "layers.") == 2
    for gap in ("layers.999999999.a", "layers.x.a", "layers.01.a"):
        with pytest.raises(ValueError, match="not numbered"):
            count_numbered(["layers.0.a", gap], "layers.")


@pytest.mark.parametrize("version", ["1.13.1", "2.6.0+cu124", "2.9.1"])
def test_pickles_from_outside_are_refused_where_torch_reads_none_safely(tmp_path, monkeypatch, version):
    torch.save({"x": torch.ones(1)}, tmp_path / "a.bin")
    save_file({"x": torch.ones(1)}, tmp_path / "a.safetensors")
    monkeypatch.setattr(torch, "__version__", version)
    for read in (read_tensors, load_any):
        with pytest.raises(BadFile, match=r"a.bin is not read: before torch 2.10 .*Update torch, or get .*safetensors"):
            read(tmp_path / "a.bin")
    assert read_tensors(tmp_path / "a.safetensors")[0]


class Code:
    def __reduce__(self):
        return print, ("code from a file ran",)


def test_a_file_with_code_is_named_without_torchs_advice(tmp_path, capsys):
    torch.save({"x": torch.ones(1), "y": Code()}, tmp_path / "a.pt")
    with pytest.raises(BadFile, match="perhaps code, and no code in a file is run") as caught:
        read_tensors(tmp_path / "a.pt")
    assert "weights_only" not in str(caught.value) and "trust" not in str(caught.value)
    assert not capsys.readouterr().out


def test_numbers_beyond_any_weight():
    check_weights("x", torch.tensor([6e4]), "a.bin")
    with pytest.raises(BadFile, match="x holds -1e[+]38, which no training gives"):
        check_weights("x", torch.tensor([1.0, -1e38]), "a.bin")


def calls(folder: str) -> list[tuple[str, str, set]]:
    """(file, the call's name, its keywords; None for `**options`) of each from_pretrained, torch.load and np.load."""
    found = []
    for path in sorted((Path(__file__).parents[1] / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                name = ast.unparse(node.func)
                if node.func.attr == "from_pretrained" or name in ("torch.load", "np.load", "pickle.load"):
                    found.append((path.name, name, {keyword.arg for keyword in node.keywords}))
    return found


def test_nothing_is_downloaded_or_unpickled_elsewhere():
    """Folders are opened in one place, with local_files_only and in safetensors only; so stands torch.load."""
    found = [*calls("facecdm"), *calls("nodes")]
    ((file, _, keywords),) = (call for call in found if call[1].endswith("from_pretrained"))
    assert file == "saved_folder.py" and "local_files_only" in keywords
    assert "_open(kind, folder, use_safetensors=True" in inspect.getsource(open_model)
    assert [file for file, name, _ in found if name == "torch.load"] == ["tensor_file.py"]
    # disk.py reads its own temporary file, which has no name.
    assert [file for file, name, _ in found if name == "pickle.load"] == ["disk.py"]


# ---- adapters ----


def header_only(path, config: dict) -> None:
    """A file of a few hundred bytes: FaceCDM's own format, without tensors."""
    metadata = {"format": "facecdm.adapter", "version": "1", "config": json.dumps(config)}
    header = json.dumps({"__metadata__": metadata}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header)


@pytest.mark.parametrize("count", [10**4, 10**6, 10**9])
@pytest.mark.parametrize("where", ["layers", "image_layers"])
def test_an_adapter_that_declares_huge_counts(tmp_path, count, where):
    layers = [["input", 8, 1, count if where == "layers" else 1]]
    config = {"layer_map": {"context": 8, "layers": layers}, "image_width": 8}
    header_only(tmp_path / "a.safetensors", config | ({"image_layers": count} if where == "image_layers" else {}))
    with pytest.raises(BadFile, match="a.safetensors: .*declares more than 1000 layers"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("size", ["face_tokens", "face_rank", "face_width", "image_width", "image_tokens", "knots"])
def test_an_adapter_that_declares_huge_sizes(tmp_path, size):
    layer_map = {"context": 8, "layers": [["input", 8, 1, 1]]}
    header_only(tmp_path / "a.safetensors", {"layer_map": layer_map, "image_width": 8, size: 10**9})
    with pytest.raises(BadFile, match="a.safetensors"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("key", ["image_proj.layers.999999999.0.to_q.weight", "ip_adapter.999999999.to_k_ip.weight"])
def test_a_published_adapter_that_declares_huge_counts(tmp_path, key):
    tensors = {
        "image_proj.latents": torch.ones(1, 16, 64),
        "image_proj.proj_in.weight": torch.ones(64, 48),
        "image_proj.proj_out.weight": torch.ones(8, 64),
        "ip_adapter.1.to_k_ip.weight": torch.ones(8, 8),
        "ip_adapter.1.to_v_ip.weight": torch.ones(8, 8),
        key: torch.ones(64, 64),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(Exception) as caught:
        load_any(tmp_path / "a.safetensors")
    assert type(caught.value).__module__ == "facecdm.errors"


def test_a_pickle_of_something_else(tmp_path):
    for value in ([torch.ones(1)], 3, "text", None):
        (tmp_path / "a.pt").write_bytes(pickle.dumps(value))
        with pytest.raises(BadFile):
            load_any(tmp_path / "a.pt")
