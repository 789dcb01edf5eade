"""facexlib's recogniser as the recogniser of a pack, against a second writing of the network."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from facecdm.errors import BadFile, MissingModel
from facecdm.faces.analyzer import open_pack
from facecdm.faces.detect import Options, detect_faces
from facecdm.faces.ir_se50 import IrSe50
from facecdm.faces.packs import IR_SE50, find_packs

UNITS = [(64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3)]


def lay_out(source: Path, target: Path, *files: str) -> None:
    target.mkdir(parents=True)
    for file in files:
        shutil.copy(source / file, target / file)


def shapes() -> dict[str, tuple[int, ...]]:
    """The file's tensors as facexlib's arcface_arch.py names them."""

    def norm(name: str, width: int) -> dict:
        kinds = ("weight", "bias", "running_mean", "running_var")
        return {f"{name}.{kind}": (width,) for kind in kinds} | {f"{name}.num_batches_tracked": ()}

    found = {"input_layer.0.weight": (64, 3, 3, 3), "input_layer.2.weight": (64,)} | norm("input_layer.1", 64)
    number = 0
    for first, out, count in UNITS:
        for unit in range(count):
            into, name = first if unit == 0 else out, f"body.{number}"
            if into != out:
                found |= {f"{name}.shortcut_layer.0.weight": (out, into, 1, 1)} | norm(f"{name}.shortcut_layer.1", out)
            found |= norm(f"{name}.res_layer.0", into) | norm(f"{name}.res_layer.4", out)
            found |= {
                f"{name}.res_layer.1.weight": (out, into, 3, 3),
                f"{name}.res_layer.2.weight": (out,),
                f"{name}.res_layer.3.weight": (out, out, 3, 3),
                f"{name}.res_layer.5.fc1.weight": (out // 16, out, 1, 1),
                f"{name}.res_layer.5.fc2.weight": (out, out // 16, 1, 1),
            }
            number += 1
    found |= norm("output_layer.0", 512) | norm("output_layer.4", 512)
    return found | {"output_layer.3.weight": (512, 512 * 49), "output_layer.3.bias": (512,)}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    generator, found = torch.Generator().manual_seed(0), {}
    for key, shape in shapes().items():
        value = torch.randn(shape, generator=generator)
        if not shape:
            found[key] = torch.tensor(1)
        elif len(shape) > 1:
            found[key] = value * value[0].numel() ** -0.5
        else:
            found[key] = 0.1 * value.abs() + (0.8 if key.endswith(("weight", "running_var")) else 0)
    return found


def reference(state: dict, x):
    """The embedding by functions, unit by unit."""

    def norm(name, x):
        mean, var = state[f"{name}.running_mean"], state[f"{name}.running_var"]
        return F.batch_norm(x, mean, var, state[f"{name}.weight"], state[f"{name}.bias"])

    x = F.prelu(
        norm("input_layer.1", F.conv2d(x, state["input_layer.0.weight"], padding=1)), state["input_layer.2.weight"]
    )
    number = 0
    for _, _, count in UNITS:
        for unit in range(count):
            name, stride = f"body.{number}", 2 if unit == 0 else 1
            short = x[..., ::stride, ::stride]
            if f"{name}.shortcut_layer.0.weight" in state:
                short = norm(f"{name}.shortcut_layer.1", F.conv2d(short, state[f"{name}.shortcut_layer.0.weight"]))
            own = f"{name}.res_layer"
            y = F.conv2d(norm(f"{own}.0", x), state[f"{own}.1.weight"], padding=1)
            y = F.conv2d(F.prelu(y, state[f"{own}.2.weight"]), state[f"{own}.3.weight"], stride=stride, padding=1)
            y = norm(f"{own}.4", y)
            share = F.relu(F.conv2d(F.adaptive_avg_pool2d(y, 1), state[f"{own}.5.fc1.weight"]))
            x = short + y * torch.sigmoid(F.conv2d(share, state[f"{own}.5.fc2.weight"]))
            number += 1
    x = norm("output_layer.0", x).flatten(1) @ state["output_layer.3.weight"].T + state["output_layer.3.bias"]
    x = norm("output_layer.4", x)
    return x / x.norm(dim=1, keepdim=True)


@pytest.fixture(scope="module")
def packs(state, pack_folder: Path, tmp_path_factory) -> Path:
    """Folders as InfiniteYou's users have them: the recogniser's own, and antelopev2's beside it."""
    models = tmp_path_factory.mktemp("insightface") / "models"
    lay_out(pack_folder, models / "antelopev2", "det_500m.onnx", "w600k_mbf.onnx")
    (models / "arcface_ir_se50").mkdir()
    torch.save(state, models / "arcface_ir_se50" / IR_SE50)
    return models


def test_the_embedding(state):
    faces = torch.rand(2, 3, 112, 112, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.device("meta"):
        network = IrSe50()
    network.load_state_dict(state, assign=True)
    with torch.no_grad():
        ours, theirs = network.eval()(faces), reference(state, faces)
    assert (ours - theirs).abs().max() < 1e-5 and (ours[0] - ours[1]).abs().max() > 1e-3
    assert sum(value.numel() for value in state.values() if value.ndim) == sum(
        value.numel() for value in [*network.parameters(), *network.buffers()] if value.ndim
    )


def test_the_pack_detects_and_embeds(packs, state, astronaut):
    """The crop is BGR, aligned by InsightFace's norm_crop, in -1…1."""
    from insightface.utils.face_align import norm_crop

    assert set(find_packs([packs.parent])) == {"antelopev2", "arcface_ir_se50"}
    analyzer = open_pack([packs.parent], "arcface_ir_se50", "CPU")
    assert analyzer.recogniser == f"arcface_ir_se50/{IR_SE50}" and IR_SE50 in analyzer.report()
    faces = detect_faces(analyzer, astronaut, Options()).faces
    picture = (astronaut[0].numpy() * 255).round().astype(np.uint8)[..., ::-1]
    crop = norm_crop(np.ascontiguousarray(picture), faces[0].keypoints.numpy(), 112)
    with torch.no_grad():
        wanted = reference(state, torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255 * 2 - 1)
    assert faces.recogniser == analyzer.recogniser
    torch.testing.assert_close(faces.raw[:1], wanted, rtol=0, atol=1e-4)


def test_without_its_detector_the_error_says_what_to_get(packs, tmp_path):
    alone = tmp_path / "models" / "arcface_ir_se50"
    alone.mkdir(parents=True)
    (alone / IR_SE50).symlink_to(packs / "arcface_ir_se50" / IR_SE50)
    with pytest.raises(
        MissingModel, match="uses the detector of antelopev2, which is not beside it: unpack antelopev2"
    ):
        open_pack([tmp_path], "arcface_ir_se50", "CPU")


def test_another_network_of_that_name_is_refused(packs, pack_folder, tmp_path):
    models = tmp_path / "models"
    lay_out(pack_folder, models / "antelopev2", "det_500m.onnx", "w600k_mbf.onnx")
    (models / "mine").mkdir()
    torch.save({"conv.weight": torch.zeros(1)}, models / "mine" / IR_SE50)
    with pytest.raises(BadFile, match="is not facexlib's recogniser"):
        open_pack([tmp_path], "mine", "CPU")
