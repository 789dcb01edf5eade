"""Every family is known by what its file holds, then by what the file says, then by its name, then by choice."""

import json
from pathlib import Path

import pytest
import torch
from published import PROJECTORS, SD15, SDXL, published_state

from facecdm.bases import BASES, name_of
from facecdm.errors import BadFile, FaceCDMError, UnsupportedModel
from facecdm.formats.families import FAMILIES, FILES, file_for
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import Published
from facecdm.formats.recognise import AUTO, recognise

PUBLISHED = {  # the file's own name, as its authors gave it → (family, base, tokens, encoder)
    "ip-adapter_sd15.safetensors": ("ip-adapter", "SD1.5", 4, "ViT-H"),
    "ip-adapter_sd15_light_v11.bin": ("ip-adapter-light", "SD1.5", 4, "ViT-H"),
    "ip-adapter_sd15_vit-G.safetensors": ("ip-adapter", "SD1.5", 4, "ViT-bigG"),
    "ip-adapter-plus_sd15.safetensors": ("ip-adapter-plus", "SD1.5", 16, "ViT-H"),
    "ip-adapter-plus-face_sd15.safetensors": ("ip-adapter-plus-face", "SD1.5", 16, "ViT-H"),
    "ip_plus_composition_sd15.safetensors": ("ip-adapter-composition", "SD1.5", 16, "ViT-H"),
    "ip-adapter-full-face_sd15.safetensors": ("ip-adapter-full-face", "SD1.5", 257, "ViT-H"),
    "ip-adapter-faceid_sd15.bin": ("faceid", "SD1.5", 4, None),
    "ip-adapter-faceid-plus_sd15.bin": ("faceid-plus", "SD1.5", 4, "ViT-H"),
    "ip-adapter-faceid-plusv2_sd15.bin": ("faceid-plusv2", "SD1.5", 4, "ViT-H"),
    "ip-adapter-faceid-portrait-v11_sd15.bin": ("faceid-portrait", "SD1.5", 16, None),
    "ip-adapter_sdxl.safetensors": ("ip-adapter", "SDXL", 4, "ViT-bigG"),
    "ip-adapter_sdxl_vit-h.safetensors": ("ip-adapter", "SDXL", 4, "ViT-H"),
    "ip-adapter-plus_sdxl_vit-h.safetensors": ("ip-adapter-plus", "SDXL", 16, "ViT-H"),
    "ip-adapter-plus-face_sdxl_vit-h.safetensors": ("ip-adapter-plus-face", "SDXL", 16, "ViT-H"),
    "ip-adapter-faceid_sdxl.bin": ("faceid", "SDXL", 4, None),
    "ip-adapter-faceid-plusv2_sdxl.bin": ("faceid-plusv2", "SDXL", 4, "ViT-H"),
    "ip-adapter-faceid-portrait_sdxl.bin": ("faceid-portrait", "SDXL", 16, None),
    "ip-adapter-faceid-portrait_sdxl_unnorm.bin": ("faceid-portrait-unnorm", "SDXL", 16, None),
    "instantid/ip-adapter.bin": ("instantid", "SDXL", 16, None),
    "Kolors-IP-Adapter-Plus.safetensors": ("kolors-plus", "SDXL", 16, "ViT-L"),
}
SAME_SHAPES = {
    "ip-adapter-light": "ip-adapter",
    "ip-adapter-plus-face": "ip-adapter-plus",
    "ip-adapter-composition": "ip-adapter-plus",
}


def file(family: str, base: str, name: str, encoder=None, metadata=None) -> Published:
    """As heavy as its headers: tensors of the true shapes on the meta device, but for a LoRA that does something."""
    sizes = SD15 if base == "SD1.5" else SDXL
    sizes = sizes if encoder != "ViT-bigG" else type(sizes)(**vars(sizes) | {"pooled": 1280})
    with torch.device("meta"):
        import published

        shapes = PROJECTORS[SAME_SHAPES.get(family, family)](sizes)
        projector = {key: torch.empty(shape) for key, shape in shapes.items()}
        layers = {}
        for index, layer in enumerate(BASES[base].layer_map.layers):
            for part in "kv":
                layers[f"{2 * index + 1}.to_{part}_ip.weight"] = torch.empty(layer.width, BASES[base].layer_map.context)
    if family in published.WITH_LORA:
        layers |= {"0.to_q_lora.down.weight": torch.ones(128, 320), "0.to_q_lora.up.weight": torch.ones(320, 128)}
    return Published(projector, layers, metadata or {}, Path("models") / "ipadapter" / name)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_files(name):
    family, base, tokens, encoder = PUBLISHED[name]
    found = recognise(file(family, base, name, encoder))
    assert (found.family.key, name_of(found.layer_map), found.tokens) == (family, base, tokens)
    assert (found.encoder.name if found.encoder else None) == encoder
    assert found.lora == (128 if family in ("faceid", "faceid-plus", "faceid-plusv2") else 0)
    assert "it may be" not in found.why, "it is told apart by the name that its authors gave it"
    told = found.report()
    assert found.family.name in told and base in told and f"{tokens} tokens" in told
    assert encoder is None or found.encoder.file in told
    assert f"begin with {found.family.stream}_strength {found.family.begin:g}" in told
    assert ("on Kolors' U-Net" in told) == (family == "kolors-plus")
    assert ("LoRA inside: rank 128" in told) == bool(found.lora)


def test_the_table_in_the_docs_says_what_the_report_says():
    told = {}
    for line in (Path(__file__).resolve().parents[2] / "docs" / "formats.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[3] in ("face", "image"):
            told |= dict.fromkeys(cells[1].split(", "), (cells[3], float(cells[4].split(",")[0])))
    assert told == {family.name: (family.stream, family.begin) for family in FAMILIES.values()}


def test_shipped_workflows_begin_with_the_same():
    family_of = {Path(name).name: key for key, names in FILES.items() for name in names}
    family_of["ip-adapter.bin"] = "instantid"
    begun = {}
    for path in (Path(__file__).resolve().parents[2] / "workflows" / "api").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8")).values()
        files = [node["inputs"]["name"] for node in nodes if node["class_type"] == "FaceCDMLoadAdapter"]
        strengths = [node["inputs"]["face_strength"] for node in nodes if node["class_type"] == "FaceCDMApply"]
        if files:
            begun[path.stem] = (FAMILIES[family_of[Path(files[0]).name]].begin, *strengths)
    assert begun.keys() >= {"sd15_faceid", "sdxl_faceid_plusv2", "sdxl_instantid", "sdxl_pulid"}
    assert all(set(strengths) == {begin} for begin, *strengths in begun.values()), begun


def test_content_that_leaves_no_doubt_needs_no_name():
    for family in ("faceid", "faceid-portrait", "ip-adapter-full-face", "kolors-plus"):
        base = "SDXL" if family == "kolors-plus" else "SD1.5"
        assert recognise(file(family, base, "x.bin")).why == "its content"


def test_order_of_evidence():
    def of(**more):
        choice = more.pop("choice", AUTO)
        return recognise(file("faceid-plus", "SD1.5", **{"name": "x.bin", **more}), choice)

    assert (of().family.key, of().why) == (
        "faceid-plus",
        "its content; it may be FaceID PlusV2, too: if so, choose that as family",
    )
    named = of(name="my-PlusV2.bin")
    assert (named.family.key, named.why) == ("faceid-plusv2", "'plusv2' in its name")
    told = of(name="my-plusv2.bin", metadata={"facecdm.family": "faceid-plus"})
    assert (told.family.key, told.why) == ("faceid-plus", "its metadata")
    assert of(metadata={"modelspec.title": "FaceID PlusV2"}).why == "its metadata"
    chosen = of(name="x-plusv2.bin", choice="faceid-plus")
    assert (chosen.family.key, chosen.why) == ("faceid-plus", "your choice")
    assert recognise(file("faceid-plusv2", "SDXL", "x.bin")).family.key == "faceid-plusv2", "SDXL has no other"
    assert recognise(file("instantid", "SDXL", "x.bin")).family.key == "instantid"
    assert recognise(file("instantid", "SDXL", "unnorm.bin")).family.key == "faceid-portrait-unnorm"


@pytest.mark.parametrize(
    "family,loose",
    [
        ("instantid", "portrait"),
        ("ip-adapter", "highlight"),
        ("ip-adapter", "soft light"),
        ("ip-adapter-plus", "good composition"),
        ("faceid-plus", "surplusv2"),
    ],
)
def test_a_loose_word_is_no_name(family, loose):
    """In prose of the metadata, in a file's name."""
    for found in (
        recognise(file(family, "SD1.5", "x.bin", metadata={"modelspec.description": f"a {loose} of hers"})),
        recognise(file(family, "SD1.5", f"my_{loose}.bin")),
    ):
        assert found.family.key == family and "it may be" in found.why


@pytest.mark.parametrize(
    "family,name",
    [
        ("faceid-portrait-unnorm", "IP Adapter FaceID Portrait SDXL.safetensors"),
        ("instantid", "Instant_ID portrait.bin"),
        ("faceid-plusv2", "FaceID Plus V2.bin"),
        ("faceid-plusv2", "FaceIDPlusV2_sd15.bin"),
        ("ip-adapter-light", "ip-adapter-light.bin"),
        ("ip-adapter-composition", "ip-composition-adapter_sd15.bin"),
        ("ip-adapter-plus-face", "IP-Adapter Plus Face.bin"),
        ("ip-adapter-plus", "my ip-adapter plus.bin"),
    ],
)
def test_a_name_is_known_however_its_words_are_joined(family, name):
    found = recognise(file(family, "SD1.5", name))
    assert found.family.key == family and "in its name" in found.why


def test_a_choice_must_be_possible():
    with pytest.raises(FaceCDMError, match="family is 'instantid', but x.bin holds FaceID: set family to auto"):
        recognise(file("faceid", "SD1.5", "x.bin"), "instantid")


def test_a_folder_speaks_where_the_name_does_not():
    def inside(name: str):
        published = file("instantid", "SDXL", "x.bin")
        return recognise(Published(published.image_proj, published.ip_adapter, {}, Path("models/instantid") / name))

    assert inside("ip-adapter.bin").why == "'instantid' in its folder's name"
    other = inside("ip-adapter-faceid-portrait_sdxl_unnorm.bin")
    assert (other.family.key, other.why) == ("faceid-portrait-unnorm", "'unnorm' in its name")


def test_kolors_faceid_is_refused_with_its_reason():
    published = file("faceid-plus", "SDXL", "kolors_faceid.bin")
    published.image_proj["perceiver_resampler.layers.0.0.to_out.weight"] = torch.empty(4096, 10)
    with pytest.raises(UnsupportedModel, match="FaceID Plus for Kolors.*text projection.*use an adapter for SDXL"):
        recognise(published)


def test_unknown_projectors_and_bases_are_told():
    strange = file("faceid", "SD1.5", "x.bin")
    with pytest.raises(BadFile, match=r"x\.bin has a projector that no family.*strange\.weight"):
        recognise(Published({"strange.weight": torch.ones(1)}, strange.ip_adapter, {}, strange.path))
    strange.ip_adapter.pop("31.to_k_ip.weight")
    with pytest.raises(UnsupportedModel, match="U-Net of 15 cross-attention layers and text width 768; FaceCDM kn"):
        recognise(strange)
    lame = file("faceid", "SD1.5", "x.bin")
    lame.ip_adapter.pop("31.to_v_ip.weight")
    with pytest.raises(BadFile, match="keys without values"):
        recognise(lame)


def test_the_file_to_get_is_known_for_every_family():
    assert FILES.keys() | {"kolors-plus"} == FAMILIES.keys(), "Kolors is a base of its own"
    assert file_for("faceid", "SDXL") == "ip-adapter-faceid_sdxl.bin" and file_for("faceid", "FaceCDM demo") == ""
    adapter = import_adapter(
        Published(
            *(published_state("faceid", BASES["SD1.5"].layer_map, SD15)[part] for part in ("image_proj", "ip_adapter")),
            {},
            Path("a.bin"),
        )
    )
    assert adapter.config.counterpart("SDXL") == "ip-adapter-faceid_sdxl.bin"


def test_a_lora_of_zeros_is_none():
    published = file("faceid", "SD1.5", "x.bin")
    published.ip_adapter["0.to_q_lora.up.weight"].zero_()
    assert recognise(published).lora == 0


def test_made_up_files_have_real_shapes():
    """The tests' own files, against numbers of weight-formats.md."""
    state = published_state("faceid-plusv2", BASES["SD1.5"].layer_map, SD15, lora_rank=1)["image_proj"]
    assert state["proj.2.weight"].shape == (3072, 1024)
    assert state["perceiver_resampler.proj_in.weight"].shape == (768, 1280)
    assert PROJECTORS["ip-adapter-plus"](SDXL)["proj_out.weight"] == (2048, 1280)
    assert PROJECTORS["faceid-portrait"](SDXL)["proj.2.weight"] == (32768, 1024)
