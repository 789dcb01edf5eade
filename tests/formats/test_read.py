"""Files of different programs get the same names; damaged and foreign files give errors."""

import copy
import pickle
from pathlib import Path

import pytest
import torch
from oracle import diffusers_adapters
from published import flat
from safetensors.torch import save_file

from facecdm.errors import BadFile
from facecdm.formats.read import canonical, read

FAMILIES = (
    "ip-adapter",
    "ip-adapter-plus",
    "ip-adapter-full-face",
    "faceid",
    "faceid-plus",
    "faceid-portrait",
    "faceid-portrait-unnorm",
)


def same(published, state: dict) -> None:
    for mine, theirs in ((published.image_proj, state["image_proj"]), (published.ip_adapter, state["ip_adapter"])):
        assert mine.keys() == theirs.keys()
        assert all(value.equal(theirs[key]) for key, value in mine.items())


def written(tmp_path, state: dict, kind: str):
    """The file as one of several programs saves it."""
    path = tmp_path / f"a.{'bin' if 'nested' in kind else 'safetensors'}"
    tensors = flat(state)
    if "nested" in kind:
        layers = "adapter_modules" if "modules" in kind else "ip_adapter"
        torch.save({"image_proj": state["image_proj"], layers: state["ip_adapter"]}, path)
    elif kind == "flat":
        save_file(tensors, path, {"author": "me"})
    else:  # the training script's names, also as accelerate saves them
        save_file(
            {
                "module." * (kind == "accelerate")
                + key.replace("image_proj.", "image_proj_model.").replace("ip_adapter.", "adapter_modules."): value
                for key, value in tensors.items()
            },
            path,
        )
    return path


@pytest.mark.parametrize("kind", ["nested", "nested modules", "flat", "training", "accelerate"])
def test_files_of_different_programs_read_the_same(small, make_state, tmp_path, kind):
    state = make_state("faceid-plus")
    published = read(written(tmp_path, state, kind))
    same(published, state)
    assert published.metadata == ({"author": "me"} if kind == "flat" else {})


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_that_diffusers_saved(small, make_state, tmp_path, family):
    """A U-Net with the adapter, saved by diffusers, gives the file that was loaded into it."""
    twins, _ = small
    state = make_state(family, lora_rank=0)
    with diffusers_adapters(twins, copy.deepcopy(state)):
        tensors = {
            key: value.clone()
            for key, value in twins.unet.state_dict().items()
            if "processor" in key or "encoder_hid_proj" in key
        }
    save_file(tensors, tmp_path / "unet.safetensors")
    same(read(tmp_path / "unet.safetensors"), state)


class Evil:
    def __reduce__(self):
        return print, ("code from a file ran",)


def test_a_pickle_with_code(tmp_path, capsys):
    (tmp_path / "evil.bin").write_bytes(pickle.dumps({"image_proj": Evil()}))
    torch.save({"image_proj": Evil(), "ip_adapter": {}}, tmp_path / "worse.bin")
    for name in ("evil.bin", "worse.bin"):
        with pytest.raises(BadFile, match=f"{name} cannot be read.*more than tensors"):
            read(tmp_path / name)
    assert "ran" not in capsys.readouterr().out


def test_damaged_files(small, make_state, tmp_path):
    path = written(tmp_path, make_state("ip-adapter"), "nested")
    data = path.read_bytes()
    for length in (0, 10, len(data) // 2):
        path.write_bytes(data[:length])
        with pytest.raises(BadFile, match="a.bin cannot be read.*cut off"):
            read(path)
    state = make_state("ip-adapter")
    state["ip_adapter"]["1.to_v_ip.weight"][0, 0] = float("nan")
    with pytest.raises(BadFile, match=r"ip_adapter\.1\.to_v_ip\.weight holds NaN"):
        read(written(tmp_path, state, "flat"))


def test_two_adapters_in_one_file(small, make_state, tmp_path):
    twins, _ = small
    with diffusers_adapters(twins, make_state("ip-adapter"), make_state("ip-adapter-plus")):
        tensors = {key: value.clone() for key, value in twins.unet.state_dict().items() if "encoder_hid_proj" in key}
    save_file(tensors, tmp_path / "two.safetensors")
    with pytest.raises(BadFile, match="holds several IP-Adapters"):
        read(tmp_path / "two.safetensors")


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (
            "faceid_adapter.1.to_q_router.0.weight",
            "is UniPortrait's router.*load uniportrait-faceid_sd15.bin instead.*mask",
        ),
        ("faceid_adapter.0.to_q_multi_id_lora.down.weight", "is UniPortrait's router"),
        ("id_encoder.fuse_module.mlp1.fc1.weight", "is PhotoMaker, which replaces a word.*core's PhotoMakerLoader"),
        ("id_encoder.qformer_perceiver.token_proj.0.weight", "is PhotoMaker v2, which replaces a word.*node pack"),
        ("0.to_q.id_down_basis", "is HyperLoRA, which computes a LoRA from a face .use the nodes of ComfyUI-HyperLoRA"),
        ("layers.0.norm_attn2_x.weight", "is HyperLoRA's resampler"),
        (
            "down_blocks.0.resnets.0.conv1.weight",
            "is a U-Net of diffusers, such as Arc2Face's .*models/diffusion_models",
        ),
        ("text_model.embeddings.token_embedding.weight", "is a CLIP text encoder .put it into models/text_encoders"),
    ],
)
def test_files_of_other_methods_are_named_with_what_to_use(key, message):
    with pytest.raises(BadFile, match=message):
        canonical({key: torch.zeros(1)}, {}, Path("x.bin"))


def test_photomakers_whole_file_is_not_taken_for_a_lora():
    keys = ("id_encoder.vision_model.a", "id_encoder.fuse_module.mlp1.fc1.weight", "lora_weights.unet.a.lora_A.weight")
    with pytest.raises(BadFile, match="is PhotoMaker, "):
        canonical(dict.fromkeys(keys, torch.zeros(1)), {}, Path("photomaker-v1.bin"))
