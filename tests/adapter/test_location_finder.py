"""The location that an adapter finds by itself: no host sync, no copy of the weights, and only damaged files fail."""

from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from twins import new_adapter

from facecdm.adapter.location_finder import HIGHEST, LocationFinder, Prediction
from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.bases.layers import Layer, LayerMap
from facecdm.errors import BadFile

GPU = torch.device("meta")  # stands in for a GPU: nothing can be read from it
SIZE = (16, 24)


def finding(**sizes):
    layer_map = LayerMap((Layer("input", 8, 2),), 12)
    return new_adapter(layer_map, spatial_tokens=True, face_tokens=16, **{"location_channels": 4} | sizes)


class Copies(TorchDispatchMode):
    """Records the operations that copy between devices, or that read a value on the host."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = [value for value in (*args, result) if isinstance(value, torch.Tensor) and value.dim()]
        if len({value.device for value in tensors}) > 1 or "_local_scalar_dense" in str(function):
            self.calls.append(str(function))
        return result


def test_a_step_waits_for_nothing_and_copies_nothing_from_the_host():
    mask = torch.zeros(64, 96)
    mask[:, :40] = 1
    finder = LocationFinder(finding(), mask)
    before = Prediction(torch.randn(2, 4, *SIZE, device=GPU), torch.ones(1, device=GPU))

    def step():
        location = finder(before, SIZE, GPU)
        location(16 * 24, torch.float16)
        location.everywhere(8 * 12, torch.float16)
        location.within((8, 12, 4, 4))(8 * 12)
        return location

    assert step().keypoints.shape == (2, 5, 2)  # the first step moves the head, the mask and the template
    with Copies() as copies:
        step()
    assert copies.calls == []


def test_what_copies_is_seen():
    with Copies() as copies:
        torch.ones(2).to(GPU)
    assert copies.calls


def test_without_a_step_before_the_face_has_no_weight():
    finder = LocationFinder(finding())
    of_another_size = Prediction(torch.randn(1, 4, 8, 8), torch.ones(1))
    for before in (None, of_another_size):
        near, scores, weight = finder(before, SIZE, torch.device("cpu"))(16 * 24)
        assert not weight.any() and torch.isfinite(scores).all()


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_above_the_highest_noise_level_nothing_is_found(device):
    """On a CPU the head does not even run; on a GPU its trust is multiplied by zero, so that nothing is read."""
    adapter, ran = finding(), []
    locate = adapter.locate
    adapter.locate = lambda *seen: ran.append(1) or locate(*seen)
    finder, clean = LocationFinder(adapter), torch.randn(1, 4, *SIZE, device=device)
    high, low = (Prediction(clean, torch.full((1,), sigma, device=device)) for sigma in (HIGHEST + 1, HIGHEST - 1))
    found = finder(high, SIZE, torch.device(device))
    assert bool(ran) == (device == "meta") and found.trust.shape == (1,)
    assert finder(low, SIZE, torch.device(device)).trust.shape == (1,) and ran
    if device == "cpu":
        assert not found.trust.any() and finder(high, SIZE, torch.device(device)) is found
        both = Prediction(clean.repeat(2, 1, 1, 1), torch.tensor([HIGHEST + 1, HIGHEST - 1]))
        assert finder(both, SIZE, torch.device(device)).trust[0] == 0


def test_the_adapter_stays_where_it_is():
    adapter = finding()
    LocationFinder(adapter)(Prediction(torch.randn(1, 4, *SIZE, device=GPU), torch.ones(1, device=GPU)), SIZE, GPU)
    assert {value.device.type for value in adapter.parameters()} == {"cpu"}


def test_oblong_and_odd_latents_of_a_shuffled_base():
    """ComfyUI's latents of the demo model have twice the size of the U-Net's; an odd side is padded by it."""
    adapter = finding(location_channels=16)
    odd = torch.randn(1, 4, 15, 24)
    even = torch.nn.functional.pad(odd, (0, 0, 0, 1))
    points, _ = adapter.locate(odd, torch.ones(1))
    wanted, _ = adapter.locate(even, torch.ones(1))
    torch.testing.assert_close(points[..., 1] * 15, wanted[..., 1] * 16)
    whole = torch.nn.functional.pixel_unshuffle(even, 2)
    torch.testing.assert_close(adapter.locate(whole, torch.ones(1))[0], wanted)


@pytest.mark.parametrize("damage", ["missing", "shape", "nan", "channels"])
def test_a_damaged_head_is_refused(tmp_path, damage):
    adapter = finding()
    path = save_adapter(adapter, tmp_path, "finds")
    tensors = load_file(path)
    name = "location_head.heat.weight"
    if damage == "missing":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = tensors[name][:4].clone()
    elif damage == "nan":
        tensors[name][0] = torch.nan
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    if damage == "channels":
        metadata["config"] = replace(adapter.config, location_channels=48).dumps()
    save_file(tensors, path, metadata)
    with pytest.raises(BadFile, match="finds"):
        load_adapter(path)


def test_half_precision_weights_are_computed_in_float32(tmp_path):
    adapter = finding()
    for value in adapter.parameters():
        value.data = value.data.half()
    read = load_adapter(save_adapter(adapter, tmp_path, "half"))
    assert {value.dtype for value in read.location_head.parameters()} == {torch.float32}
    clean = torch.randn(1, 4, *SIZE)
    torch.testing.assert_close(
        read.locate(clean.half(), torch.ones(1))[0], adapter.locate(clean, torch.ones(1))[0], atol=1e-3, rtol=0
    )
