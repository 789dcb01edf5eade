"""Training: the same whether stopped and resumed or not, and clear about what it misses."""

import io
import json
import shutil
import tarfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from facecdm import cli
from facecdm.demo import data, train, train_decoder
from facecdm.demo.autoencoder import PatchAutoencoder, build_autoencoder
from facecdm.demo.clip import CaptionTokens, ClipSizes, TinyClip
from facecdm.demo.paths import MODEL
from facecdm.demo.sizes import DemoSizes
from facecdm.demo.weights import from_run, read
from facecdm.errors import BadFile

SMALL = DemoSizes(
    image_size=32,
    latent_channels=8,
    refiner_width=16,
    channels=(64, 64),
    attention=(True, False),
    clip=ClipSizes(width=64, text_layers=1, vision_layers=1, image_size=32),
)


@pytest.fixture(scope="module")
def tiny_world(tmp_path_factory):
    """A FaceWorld of 2 splits with 12 pictures each."""
    root = tmp_path_factory.mktemp("faceworld")
    rng = np.random.default_rng(0)
    for split in ("train", "wide"):
        (root / split).mkdir()
        with (root / f"{split}.jsonl").open("w") as labels, tarfile.open(root / split / "00.tar", "w") as archive:
            for n in range(12):
                name = f"{split}/{n:04d}/00.webp"
                colour, gender = ("red", "blue")[n % 2], ("man", "woman")[n % 3 == 0]
                picture = io.BytesIO()
                Image.fromarray(rng.integers(0, 255, (64, 64, 3), np.uint8)).save(picture, "WEBP")
                info = tarfile.TarInfo(name)
                info.size = picture.tell()
                picture.seek(0)
                archive.addfile(info, picture)
                line = {
                    "file": name,
                    "shard": f"{split}/00.tar",
                    "gender": gender,
                    "age": "young",
                    "hair_style": "short",
                    "hair_colour": "brown",
                    "expression": "smiling",
                    "shirt_colour": colour,
                    "shirt_pattern": "plain",
                    "background_colour": colour,
                    "background_kind": "plain",
                    "caption": f"a young {gender}, short brown hair, smiling, {colour} shirt, "
                    f"plain {colour} background",
                }
                labels.write(json.dumps(line) + "\n")
    return root


@pytest.fixture(scope="module")
def tokenizer_folder(comfyui):
    return comfyui / "comfy" / "sd1_tokenizer"


@pytest.fixture(scope="module")
def portraits(tiny_world):
    return data.load(tiny_world, ("train", "wide"), 32)


@pytest.fixture(scope="module")
def tokens(portraits, tokenizer_folder):
    from transformers import CLIPTokenizer

    return CaptionTokens(CLIPTokenizer.from_pretrained(tokenizer_folder), portraits.captions)


def plan(**changes):
    return train.Plan(**{"steps": 4, "batch": 2, "learning_rate": 1e-3, "save_every": 2} | changes)


def all_parts(portraits, tokens, folder, steps=4):
    autoencoder = train.fit_autoencoder(portraits, SMALL, plan(), folder, "cpu")
    text = train.train_text(portraits, SMALL, plan(), tokens, folder, "cpu")
    unet = train.train_unet(portraits, SMALL, plan(), tokens, autoencoder, text, folder, "cpu")
    vision = train.train_vision(portraits, SMALL, plan(), tokens, text, folder, "cpu")
    return autoencoder.state_dict(), unet, vision.state_dict()


class Interrupted(Exception):
    pass


def test_resumed_is_bit_equal_to_uninterrupted(portraits, tokens, tmp_path, monkeypatch):
    whole = all_parts(portraits, tokens, tmp_path / "whole")
    follow = train.Run._follow

    def stop_after_three(run):
        follow(run)
        if run.step == 3 and run.checkpoint.stem not in stopped:
            stopped.add(run.checkpoint.stem)
            raise Interrupted

    stopped = set()
    monkeypatch.setattr(train.Run, "_follow", stop_after_three)
    while True:
        try:
            parts = all_parts(portraits, tokens, tmp_path / "stopped")
            break
        except Interrupted:
            continue
    assert stopped == {"autoencoder", "text", "unet", "vision"}
    for one, other in zip(whole, parts, strict=True):
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_another_seed_is_another_model(portraits, tokens, tmp_path):
    first = train.fit_autoencoder(portraits, SMALL, plan(), tmp_path / "a", "cpu").state_dict()
    other = train.fit_autoencoder(portraits, SMALL, plan(seed=1), tmp_path / "b", "cpu").state_dict()
    assert torch.equal(first["encoder.weight"], other["encoder.weight"]), "closed form: no chance in it"
    assert not torch.equal(first["refiner.0.weight"], other["refiner.0.weight"])


def test_a_finished_run_is_left_alone(portraits, tmp_path):
    train.fit_autoencoder(portraits, SMALL, plan(), tmp_path, "cpu")
    before = (tmp_path / "autoencoder.pt").read_bytes()
    train.fit_autoencoder(portraits, SMALL, plan(), tmp_path, "cpu")
    assert (tmp_path / "autoencoder.pt").read_bytes() == before


def test_a_checkpoint_cut_off(portraits, tmp_path):
    (tmp_path / "autoencoder.pt").write_bytes(b"PK\x03\x04 half a file")
    with pytest.raises(BadFile, match="autoencoder.pt"):
        train.fit_autoencoder(portraits, SMALL, plan(), tmp_path, "cpu")


def test_a_checkpoint_of_other_sizes(portraits, tmp_path):
    train.fit_autoencoder(portraits, SMALL, plan(), tmp_path, "cpu")
    wider = DemoSizes(image_size=32, latent_channels=8, refiner_width=24)
    with pytest.raises(BadFile, match="other sizes"):
        train.fit_autoencoder(portraits, wider, plan(), tmp_path, "cpu")


def test_the_cache_holds_the_same_pictures(tiny_world, portraits, tmp_path):
    first = data.load(tiny_world, ("train", "wide"), 32, tmp_path)
    again = data.load(tiny_world, ("train", "wide"), 32, tmp_path)
    assert np.array_equal(first.pixels, again.pixels) and np.array_equal(first.pixels, portraits.pixels)


def test_two_runs_may_share_the_cache(tiny_world, tmp_path, monkeypatch):
    """The second one writes the same file while the first one does."""
    load, save, runs = lambda: data.load(tiny_world, ("train",), 32, tmp_path), np.save, []

    def saving(file, pixels):
        if not runs:
            runs.append(None)
            runs[0] = load()
        save(file, pixels)

    monkeypatch.setattr(np, "save", saving)
    assert np.array_equal(load().pixels, runs[0].pixels)
    assert [path.suffix for path in tmp_path.iterdir()] == [".npy"]


def test_a_picture_in_no_shard(tiny_world, tmp_path):
    world = tmp_path / "world"
    shutil.copytree(tiny_world, world)
    with (world / "wide.jsonl").open("a") as labels:
        labels.write(json.dumps({"file": "wide/lost.webp", "shard": "wide/00.tar"}) + "\n")
    with pytest.raises(BadFile, match=r"wide/lost\.webp"):
        data.load(world, ("wide",), 32)


def command(world, tokenizer, *more):
    return [
        "demo",
        "train",
        *more,
        "--data",
        str(world),
        "--tokenizer",
        str(tokenizer),
        "--threads",
        "1",
        "--device",
        "cpu",
    ]


def test_the_command_line_says_what_is_missing(tiny_world, tokenizer_folder, tmp_path, capsys):
    assert cli.main(command(tmp_path, tokenizer_folder, "text")) == 1
    assert "no FaceWorld in" in capsys.readouterr().err
    assert cli.main(command(tiny_world, tmp_path, "text")) == 1
    assert "no CLIP tokenizer in" in capsys.readouterr().err
    run = ["--run", str(tmp_path), "--out", str(tmp_path / "demo.safetensors")]
    assert cli.main([*command(tiny_world, tokenizer_folder, "export"), *run]) == 1
    assert "train this part first" in capsys.readouterr().err


SHARP = replace(SMALL, image_size=64, decoder=(16, 16, 16))


@pytest.fixture(scope="module")
def large_portraits(tiny_world):
    return data.load(tiny_world, ("train", "wide"), 64)


def sharp_parts(portraits, tokens, folder):
    """U-Net and decoder to twice the size, upon a text tower without training."""
    torch.manual_seed(0)
    text = TinyClip(SHARP.clip, len(tokens.vocabulary), portraits.classes()).eval().requires_grad_(False)
    autoencoder = train.linear_autoencoder(portraits, SHARP)
    unet = train.train_unet(portraits, SHARP, plan(keep_pictures=4), tokens, autoencoder, text, folder, "cpu")
    latents = train.encode_all(portraits, autoencoder, folder / "cache" / "latents.npy", "cpu")
    predict = train_decoder.predictor(unet, SHARP, tokens, text, "cpu")
    trained = train_decoder.train_decoder(portraits, latents, predict, autoencoder, plan(), folder, "cpu")
    return unet, trained.state_dict()


def test_the_sharp_decoder_resumed_is_bit_equal(large_portraits, tokens, tmp_path, monkeypatch):
    whole = sharp_parts(large_portraits, tokens, tmp_path / "whole")
    follow, stopped = train.Run._follow, set()

    def stop_after_three(run):
        follow(run)
        if run.step == 3 and run.checkpoint.stem not in stopped:
            stopped.add(run.checkpoint.stem)
            raise Interrupted

    monkeypatch.setattr(train.Run, "_follow", stop_after_three)
    while True:
        try:
            parts = sharp_parts(large_portraits, tokens, tmp_path / "stopped")
            break
        except Interrupted:
            continue
    assert stopped == {"unet", "decoder"}
    for one, other in zip(whole, parts, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_averages_are_kept_and_exported_for_a_curve(large_portraits, tokens, tmp_path):
    sharp_parts(large_portraits, tokens, tmp_path)
    kept = sorted(path.name for path in tmp_path.glob("unet-*.pt"))
    assert kept == ["unet-4.pt", "unet-8.pt"]
    assert (tmp_path / "unet.previous.pt").exists()
    early, last = (
        from_run(tmp_path, SHARP, tokens.vocabulary, read(MODEL), path) for path in (tmp_path / kept[0], None)
    )
    assert last.steps["unet"] - early.steps["unet"] == 2
    assert not torch.equal(early.unet["conv_out.weight"], last.unet["conv_out.weight"].half())


def test_a_training_paused_by_its_hours_is_bit_equal(portraits, tokens, tmp_path):
    def unet(folder, calls, **pace):
        torch.manual_seed(0)
        text = TinyClip(SMALL.clip, len(tokens.vocabulary), portraits.classes()).eval().requires_grad_(False)
        for _ in range(calls):
            torch.manual_seed(0)
            autoencoder = PatchAutoencoder(SMALL.latent_channels, SMALL.refiner_width)
            state = train.train_unet(portraits, SMALL, plan(**pace), tokens, autoencoder, text, folder, "cpu")
            steps.append(train.load_checkpoint(folder / "unet.pt")["step"])
        return state

    steps = []
    whole, paused = unet(tmp_path / "whole", 1), unet(tmp_path / "paused", 4, hours=1e-9)
    assert steps == [4, 1, 2, 3, 4]
    assert all(torch.equal(whole[name], paused[name]) for name in whole)


def test_an_untrained_sharp_decoder_is_the_linear_one(large_portraits):
    model = train.linear_autoencoder(large_portraits, SHARP)
    pixels = torch.rand(2, 3, 64, 64) * 2 - 1
    latents = model.encode(pixels)
    assert latents.shape == (2, 8, 4, 4)
    small = torch.nn.functional.pixel_shuffle(model.decoder.linear(latents), 8)
    linear = torch.nn.functional.interpolate(small, scale_factor=2.0, mode="bilinear")
    assert torch.equal(model.decode(latents), linear)


def test_pictures_are_encoded_once(large_portraits, tmp_path):
    model = train.linear_autoencoder(large_portraits, SHARP)
    latents = train.encode_all(large_portraits, model, tmp_path / "latents.npy", "cpu")
    assert latents.shape == (48, 8, 4, 4)
    first = torch.from_numpy(np.array(large_portraits.pixels[:1])).permute(0, 3, 1, 2).float() / 127.5 - 1
    mirrored = model.encode(first.flip(-1)).detach()
    assert torch.allclose(torch.tensor(latents[24:25]).float(), mirrored, atol=2e-2)
    model.encoder.weight.data.zero_()
    assert np.array_equal(train.encode_all(large_portraits, model, tmp_path / "latents.npy", "cpu"), latents)


def train_and_export(world, tokenizer, folder, *more):
    """Every part for one step, and the file read again."""
    out = folder / "demo.safetensors"
    options = ["--run", str(folder), "--out", str(out), "--batch", *"22222", *more]
    assert cli.main([*command(world, tokenizer, "all"), *options]) == 0
    return read(out)


@pytest.mark.slow
def test_the_command_line_trains_and_exports(tiny_world, tokenizer_folder, tmp_path):
    before = ["--image-size", "32", "--decoder", "--steps", *"1111"]
    weights = train_and_export(tiny_world, tokenizer_folder, tmp_path / "plain", *before)
    assert weights.sizes.image_size == 32 and set(weights.steps.values()) == {1}
    assert (tmp_path / "plain" / "demo.safetensors").stat().st_size < 40e6

    sharp = ["--image-size", "64", "--steps", *"11111", "--decoder", *("16", "16", "16")]
    begin = ["--begin", str(tmp_path / "plain" / "demo.safetensors")]
    weights = train_and_export(tiny_world, tokenizer_folder, tmp_path / "sharp", *sharp, *begin)
    assert weights.sizes.image_size == 64 and weights.sizes.decoder == (16, 16, 16)
    assert weights.steps == {"unet": 2, "vae": 1, "text": 1, "vision": 1}
    build_autoencoder(weights.sizes).load_state_dict(weights.vae)


def test_a_part_that_the_file_gives_is_not_trained(tiny_world, tokenizer_folder, tmp_path, capsys):
    begin = ["--begin", str(MODEL), "--run", str(tmp_path)]
    assert cli.main([*command(tiny_world, tokenizer_folder, "text"), *begin]) == 1
    assert "other words" in capsys.readouterr().err


def test_the_discriminators_gradient_has_its_share_of_the_errors():
    torch.manual_seed(0)
    weight = torch.ones(4, requires_grad=True)
    made = weight * torch.randn(2, 3, 5, 4)
    error, judged = made.abs().mean(), made.square().sum()
    own, other = (torch.autograd.grad(loss, made, retain_graph=True)[0] for loss in (error, judged))
    loss = train_decoder.balanced(made, error, judged, 0.5)
    torch.testing.assert_close(loss, error)
    gradient = torch.autograd.grad(loss, made, retain_graph=True)[0]
    torch.testing.assert_close((gradient - own).norm(), own.norm() / 2)
    torch.testing.assert_close(gradient - own, other * (gradient - own).norm() / other.norm())
    assert torch.autograd.grad(loss, weight)[0].abs().min() > 0
