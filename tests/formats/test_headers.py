"""Every published file is recognised from the names and shapes of its tensors and its file name; no data is read."""

import headers
import pytest

from facecdm.bases import BASES, name_of
from facecdm.formats import dit_bases, unet_layers
from facecdm.formats.families import FAMILIES
from facecdm.formats.imported import import_adapter
from facecdm.formats.recognise import recognise

ENTRIES = headers.entries()
every_adapter = pytest.mark.parametrize("entry", headers.adapters(), ids=lambda entry: entry["family"] + entry["file"])


@every_adapter
def test_a_published_file(entry):
    found = recognise(headers.adapter(entry))
    assert (found.family.key, name_of(found.layer_map)) == (entry["family"], entry["base"])
    assert (found.sizes.tokens, found.lora) == (entry["tokens"], entry["lora"])
    assert (found.encoder.name if found.encoder else None) == entry["encoder"]
    assert found.sizes.face_width == (512 if found.family.recipe.embedding else 0)
    assert "it may also be" not in found.why


def test_the_order_of_the_bases_decides_nothing(monkeypatch):
    for module in (dit_bases, unet_layers):
        monkeypatch.setattr(module, "BASES", dict(reversed(BASES.items())))
    for entry in headers.adapters():
        assert name_of(recognise(headers.adapter(entry)).layer_map) == entry["base"]


@pytest.mark.parametrize("name", ENTRIES)
def test_its_projector_and_layers_fit_the_shapes(name):
    adapter = import_adapter(headers.published(ENTRIES[name]))
    families = (entry["family"] for entry in headers.adapters() if entry["file"] == name)
    assert list(adapter.streams) == [FAMILIES[family].stream for family in families]


@every_adapter
def test_the_report(entry):
    found = recognise(headers.adapter(entry))
    family, report = found.family, found.report()
    assert family.name in report and name_of(found.layer_map) in report and f"{found.sizes.tokens} tokens" in report
    assert found.encoder is None or found.encoder.file in report
    assert f"recommended {family.stream}_strength: {family.strength:g}" in report
    assert ("on Kolors' U-Net" in report) == (family.key == "kolors-plus")
    assert ("LoRA inside: rank 128" in report) == bool(found.lora)


def test_every_family_has_a_header():
    assert {entry["family"] for entry in headers.adapters()} == FAMILIES.keys()
    named = {file for family in FAMILIES.values() for file in family.files.values()}
    assert named - ENTRIES.keys() == {"ip_plus_composition_sdxl.safetensors"}, "as Plus for SDXL"
