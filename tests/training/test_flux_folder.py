"""`python -m facecdm train` on a Flux.1 folder as diffusers saves it: data set, config.yaml, three stages, files."""

import json
import shutil

import pytest
import torch
import yaml
from datasets import StubFinder, colourful, save
from flux_folder import CONTEXT, POOLED, make_folder
from safetensors.torch import load_file, save_file
from tensors import close

from facecdm.adapter.native import load_adapter
from facecdm.cli import parser_of
from facecdm.commands.train import main
from facecdm.errors import BadFile, FaceCDMError, MissingModel, UnsupportedModel
from facecdm.hosts.diffusers.denoiser import open_base
from facecdm.hosts.diffusers.dit_encoders import open_encoders
from facecdm.training.dataset.pipeline import prepare
from facecdm.training.dataset.settings import Settings
from facecdm.training.dataset.sources import FolderSource

CAPTIONS = ("a woman in a garden", "word " * 300)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, comfyui):
    place = tmp_path_factory.mktemp("flux")
    return place, make_folder(place, comfyui)


@pytest.fixture(scope="module")
def data(folder, tmp_path_factory):
    pictures, out = (tmp_path_factory.mktemp(name) for name in ("pictures", "data"))
    for number in range(6):
        save(pictures / f"person {number % 3}" / f"{number}.png", colourful(number), CAPTIONS[number // 5])
    settings = Settings(resolution=64, step=16, augmented=0)
    return prepare(FolderSource(pictures), out, open_encoders(folder[0]), StubFinder(), settings)


@torch.no_grad()
def test_prompts_are_those_of_the_pipeline(folder):
    encoders = open_encoders(folder[0])
    assert (encoders.resolution, encoders.step, encoders.large, encoders.pooled) == (1024, 16, False, True)
    for prompt, caption, length in zip(encoders.text(CAPTIONS), CAPTIONS, (256, 301)):
        states, pooled, _ = folder[1].encode_prompt(caption, caption, device="cpu", max_sequence_length=length)
        close(prompt.states, states, 1e-5)
        close(prompt.pooled, pooled, 1e-5)
    pixels = torch.rand(1, 32, 64, 3)
    pushed = folder[1].vae.encode(pixels.movedim(-1, 1) * 2 - 1).latent_dist.mode()
    close(encoders.latents(pixels), (pushed - 0.1159) * 0.3611, 1e-5)


def test_a_batch_holds_prompts_at_their_own_lengths(data):
    (bucket,) = data.buckets
    prompt = data.load(bucket).prompt
    assert sorted(prompt.lengths.tolist()) == [256] * 5 + [301] and prompt.states.shape == (6, 301, CONTEXT)
    assert prompt.pooled.shape == (6, POOLED) and prompt.sizes is None
    assert data.empty_prompt.lengths.tolist() == [256]
    row = int(prompt.lengths.argmin())
    assert not prompt.states[row, 256:].any() and prompt.mask.sum(1).tolist() == prompt.lengths.tolist()


def write(place, folder, data, **more):
    settings = {"steps": 3, "batch": 2, "warmup": 0, "validate_every": 3, "identity": 0.0, "face_region": 0.0}
    config = {
        "base": str(folder[0]),
        "data": str(data.folder),
        "out": "run",
        "held_out": 0.0,
        "device": "cpu",
        "sizes": {"face_rank": 4, "token_width": 64, "cell_width": 64},
        "all": settings | {"alignment": 0.0, "background": 0.0, "localisation": 0.0},
        "stages": {
            "identity": {"lora_rank": 2, "checkpointing": True, "localisation": 0.1},
            "fine": {"alignment": 0.5, "alignment_every": 1},
        },
    }
    path = place / "train.yaml"
    path.write_text(yaml.safe_dump(config | more))
    return path


def test_three_stages(folder, data, tmp_path, capsys):
    path = write(tmp_path, folder, data)
    assert main(parser_of("train").parse_args([str(path)])) == 0
    assert "rank 0" in capsys.readouterr().out
    out = tmp_path / "run"
    adapter = load_adapter(out / "adapter.safetensors")
    assert adapter.config.layer_map.is_dit and not adapter.streams["face"].gate.is_zero
    assert adapter.streams["face"].queries[0].to_out.weight.any()
    lora = load_file(out / "adapter_lora.safetensors")
    assert lora["transformer.single_transformer_blocks.0.attn.to_q.lora_up.weight"].any()
    for stage in ("broad", "identity", "fine"):
        lines = [json.loads(line) for line in (out / f"{stage}.jsonl").read_text().splitlines()]
        assert all(line["diffusion"] > 0 and line["gradient"] > 0 for line in lines if "diffusion" in line)
    assert "alignment" in (out / "fine.jsonl").read_text() and "localisation" in (out / "identity.jsonl").read_text()
    assert list((out / "pictures").glob("broad-*.png"))


def test_a_stopped_run_resumes_exactly(folder, data, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for place in (whole, parts):
        place.mkdir()
    stages = {"identity": {"steps": 0}, "fine": {"steps": 0}}
    plan = {"stages": stages, "all": {"steps": 4, "batch": 2, "save_every": 2, "identity": 0.0, "drop_face": 0.0}}
    main(parser_of("train").parse_args([str(write(whole, folder, data, **plan))]))
    path = write(parts, folder, data, **plan)
    from facecdm.training import trainer

    taken = trainer.Trainer._train_step

    def stop(self, chosen):
        if self.step == 2:
            raise KeyboardInterrupt
        taken(self, chosen)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(trainer.Trainer, "_train_step", stop)
        main(parser_of("train").parse_args([str(path)]))
    main(parser_of("train").parse_args([str(path)]))
    one, other = (load_file(place / "run" / "adapter.safetensors") for place in (whole, parts))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_a_few_steps_lower_the_loss(folder, data, tmp_path):
    plan = {
        "stages": {"identity": {"steps": 0}, "fine": {"steps": 0}},
        "all": {"steps": 16, "batch": 3, "learning_rate": 1e-2, "warmup": 0, "face_region": 0.0, "noise_share": 0.0},
    }
    main(parser_of("train").parse_args([str(write(tmp_path, folder, data, **plan))]))
    lines = [json.loads(line) for line in (tmp_path / "run" / "broad.jsonl").read_text().splitlines()]
    losses = [line["diffusion"] for line in lines if "diffusion" in line]
    assert sum(losses[-5:]) < 0.95 * sum(losses[:5])


def test_refused(folder, tmp_path):
    with pytest.raises(UnsupportedModel, match="ControlNet"):
        open_base(str(folder[0]), "cpu", tmp_path)
    (tmp_path / "transformer").mkdir()
    with pytest.raises(MissingModel, match="no vae/"):
        open_base(str(tmp_path), "cpu")
    for part in ("vae", "scheduler"):
        (tmp_path / part).mkdir()
    (tmp_path / "transformer" / "config.json").write_text('{"_class_name": "WanTransformer3DModel"}')
    with pytest.raises(FaceCDMError, match="WanTransformer3DModel"):
        open_base(str(tmp_path), "cpu")
    (tmp_path / "transformer" / "config.json").write_text("{")
    with pytest.raises(BadFile, match="config.json cannot be read"):
        open_base(str(tmp_path), "cpu")


def test_a_transformer_with_nan_is_refused(folder, tmp_path):
    shutil.copytree(folder[0], tmp_path / "flux")
    path = next((tmp_path / "flux" / "transformer").glob("*.safetensors"))
    weights = load_file(path)
    save_file(weights | {name: torch.full_like(weights[name], torch.nan) for name in sorted(weights)[:1]}, path)
    with pytest.raises(BadFile, match="flux"):
        open_base(str(tmp_path / "flux"), "cpu")
