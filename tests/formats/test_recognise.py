"""Recognition by content, then the metadata, then the file's name, and the user's choice before all."""

import json
from pathlib import Path

import pytest
import torch
from headers import header
from published import PROJECTORS, SD15, SDXL, published_state

from facecdm.bases import BASES
from facecdm.errors import BadFile, FaceCDMError, UnsupportedModel
from facecdm.formats.families import FAMILIES, file_for
from facecdm.formats.imported import ImportedConfig, import_adapter
from facecdm.formats.no_layers import NoLayers
from facecdm.formats.read import Published
from facecdm.formats.recognise import AUTO, recognise

ROOT = Path(__file__).resolve().parents[2]


def file(family: str, base: str = "SD1.5", name: str = "x.bin", metadata=None) -> Published:
    """A file of the family's true shapes, without data."""
    published = header(family, base)
    return Published(published.image_proj, published.ip_adapter, metadata or {}, Path("models") / "ipadapter" / name)


def test_the_docs_table_agrees_with_the_report():
    table = {}
    for line in (ROOT / "docs" / "formats.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 5 and cells[3] in ("face", "image"):
            table |= dict.fromkeys(cells[1].split(", "), (cells[3], float(cells[4].split(",")[0])))
    assert table == {family.name: (family.stream, family.strength) for family in FAMILIES.values()}


def test_shipped_workflows_use_the_recommended_strength():
    """InfiniteYou, which acts through its ControlNet alone, is not applied."""
    family_of = {Path(name).name: family for family in FAMILIES.values() for name in family.files.values()}
    found = {}
    for path in (ROOT / "workflows" / "api").glob("*.json"):
        nodes = json.loads(path.read_text(encoding="utf-8")).values()
        files = [node["inputs"]["name"] for node in nodes if node["class_type"] == "FaceCDMLoadAdapter"]
        apply = ("FaceCDMApply", "FaceCDMApplyPeople")
        family = family_of[Path(files[0]).name] if files else None
        if family is not None and not isinstance(family.layers, NoLayers):
            widget = f"{family.stream}_strength"
            strengths = [node["inputs"][widget] for node in nodes if node["class_type"] in apply]
            found[path.stem] = (family.strength, *strengths)
    assert found.keys() >= {"sd15_faceid", "sdxl_faceid_plusv2", "sdxl_instantid", "sdxl_pulid", "flux_pulid"}
    assert all(set(strengths) == {recommended} for recommended, *strengths in found.values()), found


def test_unambiguous_content_needs_no_name():
    for family in ("faceid", "faceid-portrait", "ip-adapter-full-face"):
        assert recognise(file(family)).why == "its content"
    assert recognise(file("kolors-plus", "SDXL")).why == "its content"


def test_order_of_evidence():
    def of(choice=AUTO, **more):
        found = recognise(file("faceid-plus", **more), choice)
        return found.family.key, found.why

    assert of() == ("faceid-plus", "its content; it may also be FaceID PlusV2: if so, choose that as family")
    assert of(name="my-PlusV2.bin") == ("faceid-plusv2", "'plusv2' in its name")
    declared = {"facecdm.family": "faceid-plus"}
    assert of(name="my-plusv2.bin", metadata=declared) == ("faceid-plus", "its metadata")
    assert of(metadata={"modelspec.title": "FaceID PlusV2"}) == ("faceid-plusv2", "its metadata")
    assert of("faceid-plus", name="x-plusv2.bin") == ("faceid-plus", "your choice")


def test_a_family_that_was_never_published_for_a_base_is_excluded():
    for family, never in (("faceid-plusv2", "FaceID Plus"), ("ip-adapter", "IP-Adapter light")):
        found = recognise(file(family, "SDXL"))
        assert (found.family.key, found.why) == (family, f"its content (there is no {never} for SDXL)")


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
def test_a_loose_word_is_no_evidence(family, loose):
    for found in (
        recognise(file(family, metadata={"modelspec.description": f"a {loose} of hers"})),
        recognise(file(family, name=f"my_{loose}.bin")),
    ):
        assert found.family.key == family and "it may also be" in found.why


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
def test_words_of_a_name_may_be_joined_in_any_way(family, name):
    found = recognise(file(family, name=name))
    assert found.family.key == family and "in its name" in found.why


def test_an_impossible_choice():
    with pytest.raises(FaceCDMError, match="family is 'instantid', but x.bin holds FaceID: set family to auto"):
        recognise(file("faceid"), "instantid")


def test_the_folder_counts_after_the_name():
    def inside(name: str):
        published = file("instantid", "SD1.5")
        return recognise(Published(published.image_proj, published.ip_adapter, {}, Path("models/instantid") / name))

    assert inside("ip-adapter.bin").why == "'instantid' in its folder's name"
    other = inside("ip-adapter-faceid-portrait_sdxl_unnorm.bin")
    assert (other.family.key, other.why) == ("faceid-portrait-unnorm", "'unnorm' in its name")


def test_kolors_faceid_is_refused_with_its_reason():
    published = file("faceid-plus", "SDXL", "kolors_faceid.bin")
    published.image_proj["perceiver_resampler.layers.0.0.to_out.weight"] = torch.empty(4096, 10)
    with pytest.raises(UnsupportedModel, match="is FaceID Plus for Kolors.*text projection.*use an adapter for SDXL"):
        recognise(published)


def test_unknown_projectors_and_base_models():
    unknown = file("faceid")
    with pytest.raises(BadFile, match=r"x\.bin: its projector is not of a known family.*strange\.weight"):
        recognise(Published({"strange.weight": torch.ones(1)}, unknown.ip_adapter, {}, unknown.path))
    for part in "kv":
        unknown.ip_adapter.pop(f"31.to_{part}_ip.weight")
    with pytest.raises(UnsupportedModel, match="U-Net of 15 cross-attention layers and text width 768; FaceCDM kn"):
        recognise(unknown)


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda layers: layers.pop("31.to_v_ip.weight"), "16 layers but no 31.to_v_ip.weight"),
        (lambda layers: layers.update({"2.to_k_ip.weight": layers.pop("3.to_k_ip.weight")}), "no 3.to_k_ip.weight"),
        (lambda layers: layers.update({"3.to_k_ip.weight": torch.ones(1)}), r"layer 3 have shapes \(1,\)"),
        (lambda layers: layers.update({"x.to_k_ip.weight": torch.ones(1)}), "17 layers but no 33.to_k_ip.weight"),
    ],
)
def test_incomplete_layers(change, message):
    published = file("faceid")
    change(published.ip_adapter)
    with pytest.raises(BadFile, match=message):
        recognise(published)


@pytest.mark.parametrize("family", PROJECTORS)
def test_a_projector_without_one_of_its_tensors(family):
    """Every key in turn that is read: a typed error that names the file."""
    base = "SDXL" if family == "kolors-plus" else "SD1.5"
    whole = file(family, base)
    for key in (key for key in whole.image_proj if not key.startswith(FAMILIES[family].ignored)):
        rest = {name: value for name, value in whole.image_proj.items() if name != key}
        with pytest.raises(BadFile, match=r"x\.bin"):
            import_adapter(Published(rest, whole.ip_adapter, {}, whole.path))


def test_every_family_names_a_file_to_get():
    assert {key for key, family in FAMILIES.items() if not family.files} == {"kolors-plus"}, "Kolors is its own base"
    assert {family.substitute for family in FAMILIES.values()} <= {"", *FAMILIES}
    assert file_for("faceid", "SDXL") == "ip-adapter-faceid_sdxl.bin" and file_for("faceid", "FaceCDM demo") == ""
    assert file_for("instantid", "SD1.5") == "ip-adapter-faceid-plusv2_sd15.bin", "the nearest for that base"
    for family in ("instantid", "pulid-v1.1", "faceid-plus"):
        assert file_for(family, "Flux.1") == "pulid_flux_v0.9.1.safetensors"
    assert file_for("withanyone", "SDXL") == "ip-adapter_pulid_sdxl_fp16.safetensors"
    assert file_for("pulid-flux", "SD1.5") == "ip-adapter-faceid-plusv2_sd15.bin" and not file_for("pulid-flux", "SD2")
    state = published_state("faceid", BASES["SD1.5"].layer_map, SD15)
    adapter = import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")))
    assert adapter.config.counterpart("SDXL") == "ip-adapter-faceid_sdxl.bin"


@pytest.mark.parametrize("count,key", [(2, "faceid"), (4, "faceid"), (8, "faceid-portrait")])
def test_more_tokens_than_four_are_portraits(count, key):
    published = file("faceid")
    features = len(published.image_proj["norm.weight"])
    published.image_proj["proj.2.weight"] = torch.empty(count * features, 1024, device="meta")
    assert recognise(published).family.key == key


@pytest.mark.parametrize("family,face,image", [("faceid", 512, 0), ("ip-adapter", 0, 1024)])
def test_widths_of_the_features_that_a_stream_reads(family, face, image):
    published = file(family)
    config = ImportedConfig(BASES["SD1.5"].layer_map, {(found := recognise(published)).family.stream: found})
    assert (config.face_width, config.image_width) == (face, image)


def test_test_files_have_true_shapes():
    """The made-up files of the other tests, against numbers of the published ones."""
    state = published_state("faceid-plusv2", BASES["SD1.5"].layer_map, SD15, lora_rank=1)["image_proj"]
    assert state["proj.2.weight"].shape == (3072, 1024)
    assert state["perceiver_resampler.proj_in.weight"].shape == (768, 1280)
    assert PROJECTORS["ip-adapter-plus"](SDXL)["proj_out.weight"] == (2048, 1280)
    assert PROJECTORS["faceid-portrait"](SDXL)["proj.2.weight"] == (32768, 1024)
