"""What files declare about themselves: the configuration of an adapter, and the parts of a checkpoint."""

import io
import json
from dataclasses import replace

import pytest
import torch
from good_files import own_adapter
from lab import STAGE, tiny_trainer

from facecdm.adapter.native import load_adapter
from facecdm.errors import FaceCDMError
from facecdm.training.state import resume

ADAPTER = own_adapter()
CONFIG = json.loads(ADAPTER.metadata["config"])
WRONG = (10**6, 10**9, 10**400, -1, 0.5, float("inf"), float("nan"), "x", "9" * 10**5, None, [], {})


def load_with(tmp_path, **metadata):
    ADAPTER.write(tmp_path / "a.safetensors", ADAPTER.tensors, ADAPTER.metadata | metadata)
    return load_adapter(tmp_path / "a.safetensors")


@pytest.mark.timeout(400)
@pytest.mark.parametrize("field", sorted(CONFIG.keys() - {"recogniser"}))
def test_a_wrong_field_of_an_adapters_configuration(tmp_path, field):
    for value in WRONG:
        with pytest.raises(FaceCDMError) as caught:
            load_with(tmp_path, config=json.dumps(CONFIG | {field: value}))
        assert len(str(caught.value)) <= 1000, (field, value)


@pytest.mark.timeout(400)
@pytest.mark.parametrize("place", range(4))
def test_a_wrong_layer_of_an_adapters_configuration(tmp_path, place):
    for value in WRONG:
        runs = [list(run) for run in CONFIG["layer_map"]["layers"]]
        runs[0][place] = value
        with pytest.raises(FaceCDMError):
            load_with(tmp_path, config=json.dumps(CONFIG | {"layer_map": CONFIG["layer_map"] | {"layers": runs}}))


@pytest.mark.timeout(400)
def test_layers_whose_counts_cancel(tmp_path):
    runs = [["input", 16, 2, 10**9], ["input", 16, 2, 3 - 10**9]]
    with pytest.raises(FaceCDMError, match="1000 layers"):
        load_with(tmp_path, config=json.dumps(CONFIG | {"layer_map": {"context": 32, "layers": runs}}))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "[" * 10**5, '{"layer_map": 1}', "{}"])
def test_another_configuration(tmp_path, text):
    with pytest.raises(FaceCDMError):
        load_with(tmp_path, config=text)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    trainer = tiny_trainer(folder, replace(STAGE, steps=2))
    trainer.run(lambda trainer: None)
    return trainer


def parts_of(value, path=()):
    """Where parts lie in a checkpoint: all of the first level, one of each below, three levels deep."""
    if isinstance(value, dict) and len(path) < 3:
        for key in list(value)[: 1 if path else None]:
            yield (*path, key)
            yield from parts_of(value[key], (*path, key))


@pytest.mark.timeout(400)
def test_a_checkpoint_with_a_part_missing_or_of_another_kind(checkpoint):
    trainer, path = checkpoint, checkpoint.checkpoint
    whole, loaded = path.read_bytes(), []
    damaged = [b"", whole[:100], whole[: len(whole) // 2]]
    for place in parts_of(torch.load(path, weights_only=True)):
        for value in (None, 7, torch.full((1,), float("nan")), "x"):
            damaged.append(changed(whole, place, value))
    for number, content in enumerate(damaged):
        path.write_bytes(content)
        try:
            resume(path, trainer.learner, trainer.optimiser, trainer.identity, trainer.worker)
            loaded.append(number)
        except FaceCDMError as error:
            assert len(str(error)) <= 1000
    path.write_bytes(whole)
    assert resume(path, trainer.learner, trainer.optimiser, trainer.identity, trainer.worker)[0] == trainer.step
    assert len(damaged) > 30 and len(loaded) <= 8  # values of an optimiser's group, and numbers such as "step": 7


def changed(whole: bytes, place: tuple, value) -> bytes:
    """The checkpoint with `value` at a place, or without it for None."""
    stored = torch.load(io.BytesIO(whole), weights_only=True)
    part = stored
    for key in place[:-1]:
        part = part[key]
    if value is None:
        del part[place[-1]]
    else:
        part[place[-1]] = value
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    return buffer.getvalue()
