"""New, Save and Load FaceCDM Adapter as ComfyUI runs them."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from twins import SMALL_SD15, make_twins


@pytest.fixture
def save(in_comfy, folder):
    def save(adapter, name="mine", overwrite=False) -> Path:
        return Path(in_comfy.run("FaceCDMSaveAdapter", adapter=adapter, name=name, overwrite=overwrite)[0])

    return save


@pytest.fixture
def load(in_comfy, folder):
    return lambda name, **more: in_comfy.run("FaceCDMLoadAdapter", name=name, **more)


def same(one, other) -> bool:
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(value.equal(theirs[key]) for key, value in mine.items())


# ---- New FaceCDM Adapter ----


def test_the_report_names_base_streams_and_state(in_comfy, sd15, vision):
    inputs = {"model": sd15, "face_tokens": 4, "image_tokens": 8, "face_rank": 16, "interplay": True, "seed": 0}
    _, with_image = in_comfy.run("FaceCDMNewAdapter", clip_vision=vision, **inputs)
    _, face_alone = in_comfy.run("FaceCDMNewAdapter", **inputs)
    assert "16 cross-attention layers" in with_image and "untrained: an exact no-op" in with_image
    assert "face: 512 features → 4 tokens" in with_image and "image: 32 features → 8 tokens" in with_image
    assert "image: no stream" in face_alone


def test_known_base_models(in_comfy, sdxl, make_adapter):
    bases = in_comfy.module("facecdm.bases")
    assert bases.name_of(make_adapter(sdxl).config.layer_map).startswith(
        "U-Net of 28 cross-attention layers, text width 128"
    )
    assert {"SD1.5", "SD2", "SDXL", "FaceCDM demo"} <= set(bases.BASES)


def test_the_seed_decides_the_weights(sd15, vision, make_adapter):
    before = torch.random.get_rng_state()
    one, again, other = (make_adapter(sd15, clip_vision=vision, seed=seed) for seed in (5, 5, 6))
    assert same(one, again) and not same(one, other)
    assert torch.random.get_rng_state().equal(before), "the global generator belongs to others"


def test_keys_and_values_start_as_the_texts(in_comfy, vision, make_adapter):
    model = make_twins(SMALL_SD15).model  # not shared, since another test's LoRA may still be in it
    unet = model.model.diffusion_model.state_dict()
    adapter = make_adapter(model, clip_vision=vision)
    for stream in adapter.streams.values():
        assert stream.to_k[0].weight.equal(unet["input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"])
        assert stream.to_v[-1].weight.equal(unet["middle_block.1.transformer_blocks.0.attn2.to_v.weight"])
        assert stream.gate.is_zero


def test_a_new_adapter_has_no_inference_tensors(adapter):
    assert not any(value.is_inference() or value.requires_grad for value in adapter.state_dict().values())


def test_other_architectures_are_refused(in_comfy, errors, make_adapter):
    from types import SimpleNamespace

    flux = SimpleNamespace(model=SimpleNamespace(diffusion_model=torch.nn.Linear(1, 1)), backup={})
    with pytest.raises(errors.UnsupportedModel, match="SD1.5, SD2, SDXL"):
        make_adapter(flux)


# ---- Save and Load ----


def test_what_is_saved_is_loaded_bit_for_bit(adapter, save, load, folder):
    path = save(adapter)
    back, report, _ = load("mine.safetensors")
    assert path == folder / "mine.safetensors" and same(back, adapter) and back.config == adapter.config
    assert "untrained" not in report and "recogniser: any" in report
    assert not any(value.is_inference() or value.requires_grad for value in back.state_dict().values())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_file_in_half_precision_runs_as_any_other(sd15, vision, make_adapter, save, load, dtype):
    """Keys and values keep their dtype; the rest, which is small, becomes fp32."""
    adapter = make_adapter(sd15, clip_vision=vision).to(dtype)
    save(adapter)
    back = load("mine")[0]
    for name, value in back.state_dict().items():
        large = name.startswith("streams.") and (".to_k." in name or ".to_v." in name)
        assert value.dtype == (dtype if large else torch.float32)
        assert torch.equal(value.to(dtype), adapter.state_dict()[name])
    tokens = back.project(torch.eye(1, 512), torch.ones(1, 3, back.config.image_width))
    tokens_for_text = back.apply_interplay(tokens, torch.ones(1, 2, back.config.layer_map.context))
    assert {stream: tokens.dtype for stream, tokens in tokens_for_text.items()} == {
        "face": torch.float32,
        "image": torch.float32,
    }


def test_metadata_for_other_tools(adapter, save):
    with safe_open(save(adapter), "pt") as file:
        metadata = file.metadata()
    assert metadata["format"] == "facecdm.adapter" and metadata["modelspec.title"] == "mine"
    assert "facecdm" in metadata["modelspec.architecture"] and '"face_rank": 16' in metadata["config"]


def test_an_existing_file_is_kept(sd15, make_adapter, save, load):
    old, new = make_adapter(sd15, seed=1), make_adapter(sd15, seed=2)
    assert [save(old).name, save(new).name] == ["mine.safetensors", "mine_2.safetensors"]
    assert same(load("mine")[0], old) and same(load("mine_2")[0], new)
    assert save(new, overwrite=True).name == "mine.safetensors" and same(load("mine")[0], new)


def test_names_stay_in_the_folder(errors, adapter, save, load, folder):
    (folder.parent / "secret.safetensors").write_bytes(b"")
    for name in ("../secret", "", "con", "\ud800"):
        with pytest.raises(errors.UnsafeName):
            save(adapter, name)
    with pytest.raises(errors.UnsafeName):
        load("../secret.safetensors")
    assert not list(folder.iterdir())


def test_the_folder_is_listed(in_comfy, adapter, save):
    node = in_comfy.nodes["FaceCDMLoadAdapter"]
    assert node.define_schema().inputs[0].options == ["none saved yet"]
    save(adapter)
    assert node.define_schema().inputs[0].options == ["mine.safetensors"]


def test_a_name_is_checked_before_anything_runs(in_comfy, adapter, save):
    node = in_comfy.nodes["FaceCDMLoadAdapter"]
    for wrong in ("none saved yet", "missing.safetensors"):
        message = node.validate_inputs(wrong)
        assert wrong.removesuffix(".safetensors") in message and "Save FaceCDM Adapter" in message
    assert "leaves its folder" in node.validate_inputs("../../x")
    save(adapter)
    assert node.validate_inputs("mine.safetensors") is True and node.validate_inputs() is True


def test_the_fingerprint_changes_with_the_file(in_comfy, sd15, make_adapter, save):
    mark = in_comfy.nodes["FaceCDMLoadAdapter"].fingerprint_inputs
    assert mark("mine") == "missing" and mark() == "missing"
    save(make_adapter(sd15))
    before = mark("mine")
    assert mark("mine") == before
    save(make_adapter(sd15, face_tokens=6), overwrite=True)
    assert mark("mine") != before


# ---- bad files ----


def rewrite(path: Path, change=lambda tensors: None, **metadata) -> None:
    with safe_open(path, "pt") as file:
        header = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {**header, **metadata})


def first(tensors, part: str) -> str:
    return next(key for key in tensors if part in key)


BAD = {
    "NaN": (lambda t: t[first(t, "to_k")].view(-1)[0].fill_(float("nan")), {}, "NaN or infinity.*earlier checkpoint"),
    "infinity": (lambda t: t[first(t, "gate")].view(-1)[0].fill_(float("inf")), {}, "gate.* holds NaN or infinity"),
    "incomplete": (lambda t: t.pop(first(t, "to_v")), {}, "does not hold what .* says .*Missing key.*save it again"),
    "another shape": (lambda t: t.update({first(t, "to_v"): torch.zeros(2, 2)}), {}, "size mismatch.*save it again"),
    "integers": (lambda t: t.update({first(t, "to_v"): torch.zeros(2, 2).int()}), {}, "holds int32, not weights"),
    "newer version": (lambda t: None, {"version": "2"}, "version 2.*Update FaceCDM"),
    "another kind": (lambda t: None, {"format": "pt"}, "a file of another kind.*FaceCDM reads its own adapters"),
    "no configuration": (lambda t: None, {"config": "["}, "configuration cannot be read.*save it anew"),
    "impossible configuration": (lambda t: None, {"config": '{"layer_map": {"context": -4, "layers": []}}'}, "save it"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_file(errors, adapter, save, load, what):
    change, metadata, message = BAD[what]
    rewrite(save(adapter), change, **metadata)
    with pytest.raises(errors.BadFile, match=f"(?s)mine.safetensors.*{message}"):
        load("mine")


def test_a_truncated_file(errors, adapter, save, load):
    path = save(adapter)
    data = path.read_bytes()
    for length in (0, 1, 7, 8, 9, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(errors.BadFile, match="mine.safetensors.*cut off"):
            load("mine")


@pytest.mark.parametrize(
    "key,kind",
    [
        ("ip_adapter.1.to_k_ip.weight", "a part of an IP-Adapter"),
        ("image_proj.proj.weight", "a part of an IP-Adapter"),
        ("lora_unet_mid_block_attn2_to_k.lora_up.weight", "a LoRA"),
        ("model.weight", "a file of another kind"),
        ("vision_model.encoder.weight", "a CLIP vision model"),
        ("zero_convs.0.weight", "a ControlNet"),
        ("model.diffusion_model.out.weight", "a checkpoint"),
    ],
)
def test_files_of_other_programs_are_named(errors, folder, load, key, kind):
    save_file({key: torch.ones(2, 2)}, folder / "theirs.safetensors")
    with pytest.raises(errors.BadFile, match=f"theirs.safetensors is {kind}.*FaceCDM reads"):
        load("theirs")


# ---- the vision tower of an adapter ----


def vit(states: int, pooled: int, positions: int) -> dict[str, torch.Tensor]:
    """The tensors that tell a tower's widths, as in CLIP's files."""
    return {
        "vision_model.embeddings.position_embedding.weight": torch.zeros(positions, states),
        "visual_projection.weight": torch.zeros(pooled, states),
    }


@pytest.fixture
def towers(in_comfy, tmp_path, monkeypatch):
    """An empty models/clip_vision."""
    import folder_paths

    folder = tmp_path / "towers"
    folder.mkdir()
    kinds = {".safetensors", ".bin", ".pt"}
    for key in ("clip_vision", "pulid", "facexlib"):
        monkeypatch.setitem(folder_paths.folder_names_and_paths, key, ([str(folder)], kinds))
    return folder


def test_a_tower_is_found_by_its_name_or_its_shapes(in_comfy, towers):
    path = in_comfy.module("nodes.towers").tower_path
    vit_h, vit_g, vit_l = in_comfy.module("facecdm.formats.encoders").ENCODERS
    save_file(vit(1664, 1280, 257), towers / "a.safetensors")
    save_file(vit(1280, 1024, 257), towers / "b.safetensors")
    save_file(vit(1024, 768, 257), towers / "c.safetensors")  # 224 pixels, and Kolors' has 336
    (towers / "damaged.safetensors").write_bytes(b"no header")
    assert [path(tower).name for tower in (vit_g, vit_h)] == ["a.safetensors", "b.safetensors"]
    save_file(vit(1024, 768, 577), towers / "d.safetensors")
    assert path(vit_l).name == "d.safetensors"
    (towers / vit_h.file).write_bytes(b"")
    assert path(vit_h).name == vit_h.file, "its name counts first"


def test_a_chosen_tower_counts_before_its_name(in_comfy, errors, towers):
    module = in_comfy.module("nodes.towers")
    vit_h = in_comfy.module("facecdm.formats.encoders").ENCODERS[0]
    for name in (vit_h.file, "mine.safetensors"):
        (towers / name).write_bytes(b"")
    assert module.tower_path(vit_h, "mine.safetensors").name == "mine.safetensors"
    with pytest.raises(
        errors.MissingModel, match="vision_tower is gone.safetensors.*models/clip_vision.*python -m facecdm get"
    ):
        module.tower_path(vit_h, "gone.safetensors")
    assert set(module.tower_names()) == {vit_h.file, "mine.safetensors"}


def test_a_missing_tower_is_named_with_its_command(in_comfy, errors, towers):
    encoders = in_comfy.module("facecdm.formats.encoders")
    for tower, name in ((encoders.ENCODERS[2], "clip-vit-large-patch14-336.bin"), (encoders.EVA, encoders.EVA.file)):
        with pytest.raises(errors.MissingModel, match=rf"{tower.name}.*python -m facecdm get {name}"):
            in_comfy.module("nodes.towers").tower_path(tower)


def test_the_tower_is_loaded_when_it_is_first_used(in_comfy, vision, picture, adapter, save, load, towers, errors):
    """Adapter and report stay the first outputs, as old graphs link them."""
    encoders = in_comfy.module("facecdm.formats.encoders")
    save(adapter)
    assert load("mine")[2] is None, "no known tower has 32 features"
    with pytest.MonkeyPatch.context() as patch:
        small = encoders.Encoder("ViT-small", 32, 8, encoders.ENCODERS[0].file, 5)
        patch.setattr(encoders, "ENCODERS", (small,))
        loaded, report, lazy = load("mine")
        assert same(loaded, adapter) and "16 cross-attention layers" in report
        with pytest.raises(errors.MissingModel, match="vision_tower is gone.*python -m facecdm get"):
            load("mine", vision_tower="gone.safetensors")
        with pytest.raises(errors.MissingModel, match="ViT-small"):
            lazy.encode_image(picture())
        calls = []
        patch.setattr("comfy.clip_vision.load", lambda path: calls.append(Path(path).name) or vision)
        (towers / small.file).write_bytes(b"")
        lazy = load("mine")[2]
        assert not calls
        expected = vision.encode_image(picture()).penultimate_hidden_states
        for _ in range(2):
            assert lazy.encode_image(picture()).penultimate_hidden_states.equal(expected)
        assert calls == [small.file]


def test_a_siglip_file_is_read_once(in_comfy, towers, errors):
    """Core's loader and the pooling take their tensors from one reading."""
    encoder, reads = in_comfy.module("facecdm.formats.encoders").SIGLIP_SO400M, []
    (towers / encoder.file).write_bytes(b"")
    module = in_comfy.module("nodes.towers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "read_tensors", lambda path: reads.append(path.name) or ({}, {}))
        patch.setattr("comfy.clip_vision.load", lambda path: pytest.fail("core reads the file again"))
        with pytest.raises(errors.BadFile, match="is no CLIP vision model"):
            module._load(towers / encoder.file, encoder)
    assert reads == [encoder.file]


def test_pulids_tower_is_eva(in_comfy, towers):
    """It is a FaceTower before it is loaded; other towers are not, and are not loaded to find out."""
    lazy, vision = (in_comfy.module(f"facecdm.{name}") for name in ("hosts.comfy.lazy_vision", "formats.vision"))
    unused = (lazy.LazyFaceTower(lambda: pytest.fail("loaded")), lazy.LazyVision(lambda: pytest.fail("loaded")))
    assert [isinstance(tower, vision.FaceTower) for tower in unused] == [True, False]
    eva = in_comfy.module("facecdm.formats.families").FAMILIES["pulid"]
    assert in_comfy.module("facecdm.formats.encoders").encoder_for(eva.recipe.vision, 1024).file.startswith("EVA02")


def test_uniportraits_towers_are_vit_h_and_curricular_face(in_comfy, errors, towers, vision, monkeypatch):
    """Both are loaded when they are first used; the tower then has the states of both."""
    module, names = in_comfy.module("nodes.towers"), []
    backbone = in_comfy.module("facecdm.faces.curricular_face")
    vit_h = in_comfy.module("facecdm.formats.encoders").ENCODERS[0]
    family = in_comfy.module("facecdm.formats.families").FAMILIES["uniportrait"]
    part = SimpleNamespace(family=family, encoder=vit_h)
    adapter = SimpleNamespace(config=SimpleNamespace(parts={"face": part}))
    monkeypatch.setattr("comfy.clip_vision.load", lambda path: names.append(Path(path).name) or vision)
    (towers / vit_h.file).write_bytes(b"")
    with pytest.raises(errors.MissingModel, match=f"reads CurricularFace.*facecdm get {backbone.FILE}"):
        module.tower_of_adapter(adapter).encode_image(torch.zeros(1, 8, 8, 3))
    monkeypatch.setattr(backbone, "load_curricular_face", lambda path: names.append(path.name) or torch.nn.Identity())
    monkeypatch.setattr(
        in_comfy.module("facecdm.hosts.comfy.curricular_face"),
        "face_states",
        lambda network, crops: (crops.sum((1, 2, 3))[:, None, None], crops),
    )
    (towers / backbone.FILE).write_bytes(b"")
    del names[:]
    tower = in_comfy.module("facecdm.hosts.comfy.vision").tower_of(module.tower_of_adapter(adapter))
    assert isinstance(tower, in_comfy.module("facecdm.formats.vision").FaceStatesTower) and not names
    identity, _ = tower.face_states(torch.ones(20, 2, 2, 3))
    assert identity.shape == (20, 1, 1) and identity.eq(12).all() and names == [vit_h.file, backbone.FILE]
    assert tower.encode(torch.zeros(1, 8, 8, 3)).states.shape[-1] == 32
    core = in_comfy.module("facecdm.hosts.comfy.vision").tower_of(vision)
    assert not isinstance(core, in_comfy.module("facecdm.formats.vision").FaceStatesTower)
    with pytest.raises(errors.FaceCDMError, match="CurricularFace gave NaN"):
        tower.face_states(torch.full((1, 2, 2, 3), float("nan")))
