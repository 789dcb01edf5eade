"""Crafted pickles are refused before torch reads them; what torch writes passes."""

import io
import time

import pytest
import torch
from bad_pickles import BOMBS, archive, called, doubled_tuples

from facecdm.errors import BadFile
from facecdm.pickle_check import check_pickle
from facecdm.tensor_file import load_pickle, read_tensors


@pytest.mark.parametrize("name", sorted(BOMBS.keys() - {"nested lists"}))
def test_pickles_that_cost_more_than_they_hold(tmp_path, name):
    (tmp_path / "a.bin").write_bytes(BOMBS[name])
    started = time.process_time()
    with pytest.raises(BadFile, match="a.bin cannot be read") as caught:
        read_tensors(tmp_path / "a.bin")
    assert time.process_time() - started < 5 and len(str(caught.value)) <= 1000


def test_the_reason_is_named():
    for pickle, reason in (
        (doubled_tuples(60), "a tuple of more than 1000 values"),
        (called("builtins.bytearray", 10**10), r"perhaps code, .*builtins.bytearray"),
        (called("os.system", 1), r"perhaps code, .*os.system"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_pickle(io.BytesIO(archive(pickle)))
    with pytest.raises(ValueError, match="its parts claim 100,000,"):
        check_pickle(io.BytesIO(BOMBS["zip bomb"]))


@pytest.mark.parametrize("zipped", [True, False])
def test_what_torch_writes_is_read(zipped):
    layer = torch.nn.Linear(2, 2)
    optimiser = torch.optim.AdamW(layer.parameters())
    layer(torch.ones(1, 2)).sum().backward()
    optimiser.step()
    kinds = {str(dtype): torch.ones(2).to(dtype) for dtype in (torch.float16, torch.bfloat16, torch.uint8, torch.bool)}
    plain = {"text": "ä", "numbers": [1, 2.5, None, True], "bytes": b"x", "size": torch.Size([1, 2]), "pair": (1, 2)}
    stored = {"layer": layer.state_dict(), "optimiser": optimiser.state_dict(), "parameter": layer.weight}
    buffer = io.BytesIO()
    torch.save(stored | kinds | plain, buffer, _use_new_zipfile_serialization=zipped)
    buffer.seek(0)
    loaded = load_pickle(buffer)
    assert {name: loaded[name] for name in plain} == plain
    assert loaded["optimiser"]["param_groups"] == optimiser.state_dict()["param_groups"]
    assert all(torch.equal(loaded[name], value) for name, value in kinds.items())
    assert torch.equal(loaded["layer"]["weight"], layer.weight) and torch.equal(loaded["parameter"], layer.weight)
