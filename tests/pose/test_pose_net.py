"""The demo's pose ControlNet: core reads what the training writes, and computes the same; training resumes exactly."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from facecdm.demo.clip import ClipSizes
from facecdm.demo.pose_net import MARK, PoseNet, control_lora, read, write
from facecdm.demo.poses import KeyPoints
from facecdm.demo.sizes import DemoSizes
from facecdm.demo.unet import build_unet
from facecdm.errors import BadFile
from facecdm.pose.generic_face import FACE, FIVE
from facecdm.pose.layout import FACE_OF_LANDMARKS

SMALL = DemoSizes(latent_channels=8, channels=(64, 64, 128), clip=ClipSizes(width=64))


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    return build_unet(SMALL.unet_config()).requires_grad_(False).eval()


@pytest.fixture
def net(unet):
    torch.manual_seed(1)
    return PoseNet(unet, rank=4)


@pytest.fixture(scope="module")
def sample():
    rng = torch.Generator().manual_seed(2)

    def randn(*shape):
        return torch.randn(*shape, generator=rng)

    return randn(2, 8, 16, 16), torch.tensor([300, 900]), randn(2, 77, 64), torch.rand(2, 3, 128, 128, generator=rng)


def test_a_new_net_is_a_no_op(net, sample):
    skips, middle = net(*sample)
    assert len(skips) == 6 and not any(skip.any() for skip in skips) and not middle.any()


def test_a_larger_picture_is_resized_as_in_comfyui(net, unet, sample):
    """A model whose decoder doubles the size has pose pictures of 16 pixels for each position."""
    with torch.no_grad():
        for layer in (*net.zero, net.middle):
            torch.nn.init.normal_(layer.weight)
        skips, middle = net(*sample)
        larger = net(*sample[:3], sample[3].repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert middle.any() and torch.equal(larger[1], middle)
    assert all(torch.equal(one, other) for one, other in zip(larger[0], skips))


def test_only_the_small_part_is_trained(net, unet, sample):
    skips, middle = net(*sample)
    (sum(skip.sum() for skip in skips) + middle.sum()).backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())
    assert all(parameter.grad is None for parameter in unet.parameters())
    whole = sum(p.numel() for p in net._control[0].parameters())
    low = sum(p.numel() for p in net.low_rank.parameters())
    assert low < whole / 10 and not any("_control" in name for name in net.state_dict())


def test_core_computes_the_same(net, unet, sample, in_comfy, tmp_path):
    """Core's own loader, its ControlLora, its ControlNet and its U-Net, against diffusers with our residuals."""
    import comfy.controlnet

    demo, weights_of = in_comfy.module("facecdm.hosts.comfy.demo.model"), in_comfy.module("facecdm.demo.weights")
    sizes_of, clip_of = in_comfy.module("facecdm.demo.sizes"), in_comfy.module("facecdm.demo.clip")
    sizes = sizes_of.DemoSizes.from_json(SMALL.to_json())
    vae = {"decoder.weight": torch.randn(192, 8, 1, 1), "decoder.bias": torch.randn(192)}
    weights = weights_of.DemoWeights(sizes, clip_of.Vocabulary([5]), {}, unet.state_dict(), vae, {}, {})
    model = demo.build_model(weights, torch.float32)

    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape)).copy_(parameter.half().float())
    write(net.state_dict(), SMALL, 7, tmp_path / "pose.safetensors")
    control = comfy.controlnet.load_controlnet(str(tmp_path / "pose.safetensors"))
    assert isinstance(control, comfy.controlnet.ControlLora)
    noisy, level, context, hint = sample
    control.pre_run(model.model, lambda percent: model.model.model_sampling.percent_to_sigma(percent))
    with torch.no_grad():
        skips, middle = net(*sample)
        theirs = control.control_model(x=noisy, hint=hint, timesteps=level.float(), context=context)
        for mine, other in zip([*skips, middle], [*theirs["output"], *theirs["middle"]]):
            assert mine.any() and torch.allclose(mine, other, atol=1e-4 * float(other.abs().max()))
        wanted = unet(noisy, level, context, down_block_additional_residuals=skips,
                      mid_block_additional_residual=middle).sample  # fmt: skip
        residuals = {name: list(values) for name, values in theirs.items()}
        found = model.model.diffusion_model(noisy, level.float(), context, control=residuals)
    assert torch.allclose(wanted, found, atol=1e-4 * float(wanted.abs().max()))


def test_what_is_written_is_read_again(net, unet, sample, tmp_path):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape)).copy_(parameter.half().float())
    write(net.state_dict(), SMALL, 7, tmp_path / "pose.safetensors")
    again = read(tmp_path / "pose.safetensors", unet)
    with torch.no_grad():
        (skips, middle), (other_skips, other_middle) = net(*sample), again(*sample, return_dict=False)
    assert all(mine.any() and mine.equal(other) for mine, other in zip([*skips, middle], [*other_skips, other_middle]))
    (tmp_path / "pose.safetensors").write_bytes(b"cut off")
    with pytest.raises(BadFile, match="pose.safetensors cannot be read"):
        read(tmp_path / "pose.safetensors", unet)


def test_every_name_is_one_of_cores(net, in_comfy):
    import comfy.cldm.cldm

    demo, sizes_of = in_comfy.module("facecdm.hosts.comfy.demo.model"), in_comfy.module("facecdm.demo.sizes")
    config = demo.core_unet_config(sizes_of.DemoSizes.from_json(SMALL.to_json()))
    config.pop("out_channels")
    known = set(comfy.cldm.cldm.ControlNet(hint_channels=3, device="meta", **config).state_dict())
    names = set(control_lora(net.state_dict(), (1, 1, 1))) - {MARK}
    assert {name.rsplit(".", 1)[0] for name in names} <= {name.rsplit(".", 1)[0] for name in known}
    layers = {name.removesuffix(".weight") for name in known if name.endswith(".weight")}
    plain = {layer for layer in layers if not layer.startswith(("zero_convs", "middle_block_out", "input_hint"))}
    changed = {name.removesuffix(".down") for name in names if name.endswith(".down")}
    assert {layer for layer in plain - changed} == {layer for layer in plain if _is_norm(layer)}


def _is_norm(layer: str) -> bool:
    return layer.endswith(("in_layers.0", "out_layers.0", ".norm", "norm1", "norm2", "norm3"))


@pytest.fixture(scope="module")
def key_points() -> KeyPoints:
    """Generic faces in the middle of a picture."""
    landmarks = np.full((106, 2), 0.5)
    landmarks[list(FACE_OF_LANDMARKS)] = np.array([0.5, 0.5]) + FACE[:, :2] * (0.15, -0.15)
    five = np.array([0.5, 0.5]) + FIVE[:, :2] * (0.15, -0.15)
    return KeyPoints(np.arange(3), np.stack([np.concatenate([five, landmarks])] * 3).astype(np.float32))


def test_hints_agree_at_every_size(key_points):
    hints = [key_points.hint(0, 128, drawn).astype(float) / 255 for drawn in (128, 256, 512)]
    assert all(hint.shape == (128, 128, 3) and hint.any() for hint in hints)
    blurred = [_blur(hint) for hint in hints]
    assert all(np.corrcoef(blurred[0].ravel(), other.ravel())[0, 1] > 0.8 for other in blurred[1:])
    mirror = key_points.hint(0, 128, 512, mirror=True)
    assert (
        np.corrcoef(
            _blur(mirror[:, ::-1].max(2, keepdims=True)).ravel(),
            _blur(key_points.hint(0, 128, 512).max(2, keepdims=True)).ravel(),
        )[0, 1]
        > 0.8
    )


def _blur(picture: np.ndarray) -> np.ndarray:
    return picture.reshape(16, 8, 16, 8, -1).mean((1, 3))


def test_a_resumed_training_is_the_training(key_points, tmp_path):
    """Six steps at once, and three and three with the process's memory gone in between: the same weights."""
    from facecdm.demo.autoencoder import PatchAutoencoder
    from facecdm.demo.clip import TinyClip
    from facecdm.demo.data import ATTRIBUTES, Portraits
    from facecdm.demo.train import Plan
    from facecdm.demo.train_pose import train_pose

    sizes = dataclasses.replace(SMALL, latent_channels=8, refiner_width=8)
    caption = "a old man, bald"
    portraits = Portraits(
        np.random.default_rng(0).integers(0, 255, (3, 128, 128, 3), dtype=np.uint8),
        [{"caption": caption, **dict.fromkeys(ATTRIBUTES, "x")} for _ in range(3)],
    )
    torch.manual_seed(0)
    clip = TinyClip(dataclasses.replace(sizes.clip, text_layers=1, vision_layers=1), 6).requires_grad_(False)
    autoencoder = PatchAutoencoder(8, 8).requires_grad_(False)

    def tokens(captions, unknown=0.0, rng=None):
        return torch.tensor([[1, 2, 3, 5]] * len(captions))

    def train(tokens, plan, folder):
        return train_pose(portraits, key_points, sizes, plan, tokens, autoencoder, clip, folder, "cpu")

    results = []
    for name, stops in (("whole", (6,)), ("halves", (3, 6))):
        folder = tmp_path / name
        folder.mkdir()
        torch.manual_seed(3)
        state = build_unet(sizes.unet_config()).state_dict()
        torch.save({"ema": state, "model": {}, "optimiser": {}, "step": 1}, folder / "unet.pt")
        for stop in stops:
            plan = dataclasses.replace(Plan(6, 2, 1e-3, warmup=2), save_every=stop)
            if stop == 3:
                with pytest.raises(_Stop):
                    train(_stopping(tokens, 4), plan, folder)
            else:
                weights = train(tokens, plan, folder)
        results.append(weights)
        lines = [json.loads(line) for line in (folder / "pose.jsonl").read_text().splitlines()]
        assert lines[-1]["step"] == 6 and np.isfinite(lines[-1]["loss"])
    for name, value in results[0].items():
        assert torch.equal(value, results[1][name]), name


class _Stop(Exception):
    pass


def _stopping(tokens, at: int):
    """Stops the training in its `at`-th step, as a lost machine would."""
    calls = iter(range(1, 99))

    def call(*arguments, **options):
        if next(calls) == at:
            raise _Stop
        return tokens(*arguments, **options)

    return call


@pytest.fixture
def file(net, tmp_path):
    """A pose ControlNet that is no longer new."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    write(net.state_dict(), SMALL, 7, tmp_path / "pose.safetensors")
    return tmp_path / "pose.safetensors"


def test_among_cores_nodes(unet, file, in_comfy):
    """Core's Apply ControlNet and sampler: strength 0 is no control, strength 1 another picture; twice is the same."""
    import comfy.sample

    from nodes import ControlNetApplyAdvanced

    demo, weights_of = in_comfy.module("facecdm.hosts.comfy.demo.model"), in_comfy.module("facecdm.demo.weights")
    sizes_of, clip_of = in_comfy.module("facecdm.demo.sizes"), in_comfy.module("facecdm.demo.clip")
    vae = {"decoder.weight": torch.randn(192, 8, 1, 1), "decoder.bias": torch.randn(192)}
    weights = weights_of.DemoWeights(sizes_of.DemoSizes.from_json(SMALL.to_json()), clip_of.Vocabulary([5]), {},
                                     unet.state_dict(), vae, {}, {})  # fmt: skip
    model = demo.build_model(weights, torch.float32)
    control = in_comfy.module("facecdm.hosts.comfy.demo.pose").load(file)
    prompt, picture = [[torch.randn(1, 77, 64), {}]], torch.rand(1, 200, 200, 3)
    noise = torch.randn(2, 8, 16, 16)

    def sample(strength):
        conditioning = ControlNetApplyAdvanced().apply_controlnet(prompt, prompt, control, picture, strength, 0.0, 1.0)
        with torch.inference_mode():
            return comfy.sample.sample(model, noise, 2, 3.0, "euler", "karras", *conditioning, torch.zeros_like(noise),
                                       disable_pbar=True)  # fmt: skip

    plain, steered = sample(0.0), sample(1.0)
    assert torch.isfinite(steered).all() and (plain - steered).abs().max() > 1e-3
    assert torch.equal(steered, sample(1.0)) and torch.equal(plain, sample(0.0))


def test_the_loader_names_what_is_wrong(file, in_comfy, monkeypatch):
    host, errors = in_comfy.module("facecdm.hosts.comfy.demo.pose"), in_comfy.module("facecdm.errors")
    with pytest.raises(errors.MissingModel, match="train-pose"):
        host.load(file.with_name("nowhere.safetensors"))
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(errors.BadFile, match="pose.safetensors"):
        host.load(file)
    from safetensors.torch import save_file

    save_file({MARK: torch.zeros(1)}, file, {"format": "something else"})
    with pytest.raises(errors.BadFile, match="something else"):
        host.load(file)


def test_scale_hint_gives_unit_deviation(net, key_points):
    hints = torch.from_numpy(np.stack([key_points.hint(0, 128, drawn) for drawn in (128, 256, 512)]))
    hints = hints.permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        before, after = net.hint(hints).std(), net.scale_hint(hints).hint(hints).std()
    assert before < 0.05 and after == pytest.approx(1, rel=0.2)
