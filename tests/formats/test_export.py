"""An exported IP-Adapter file gives the same prediction in diffusers as the adapter here, or an error says why not."""

import pytest
import torch
from headers import header
from oracle import diffusers_adapters, predict_with_images
from safetensors import safe_open
from twins import conditioning, new_adapter, predict, stir

from facecdm.adapter.features import Features
from facecdm.adapter.person import Person
from facecdm.errors import FaceCDMError
from facecdm.formats.export import export
from facecdm.formats.imported import combine, import_adapter, load_any
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map

SIGMA = 3.0


@pytest.fixture
def trained(small):
    """A small adapter whose every part was moved, and that a plain file can hold."""
    twins, _ = small

    def trained(**sizes):
        plain = {"image_width": 0, "interplay": False, "knots": 1}
        adapter = stir(new_adapter(layer_map(twins.model), **plain | sizes))
        adapter.face_projector.mean.normal_(std=0.05)
        adapter.streams["face"].kappa.data.zero_()
        return adapter

    return trained


def written(exported, tmp_path):
    path = tmp_path / "plain.safetensors"
    path.write_bytes(exported.data("plain"))
    return path


@pytest.mark.parametrize("tokens", [4, 16])
def test_diffusers_and_we_see_the_same_in_the_file(small, trained, tmp_path, tokens):
    twins, _ = small
    adapter = trained(face_tokens=tokens)
    path = written(export(adapter), tmp_path)
    torch.manual_seed(3)
    x, text, pooled = torch.randn(1, 4, 8, 8) * SIGMA, torch.randn(1, 77, twins.context), torch.randn(1, 1280)
    face, prompt = (
        torch.nn.functional.normalize(torch.randn(1, 512), dim=1),
        conditioning(text, pooled, height=64, width=64),
    )
    own = predict(apply_person(twins.model, Person(adapter, face)), x, SIGMA, prompt)
    back = load_any(path)
    family = back.config.parts["face"].family.key
    assert family == ("faceid" if tokens == 4 else "faceid-portrait") and not back.loras
    ours = predict(apply_person(twins.model, Person(back, Features(face))), x, SIGMA, prompt)
    with diffusers_adapters(twins, str(tmp_path), names=[path.name]):
        theirs = predict_with_images(twins, x, SIGMA, text, [face[:, None]], pooled)
    for other in (ours, theirs):
        assert (own - other).abs().max() < 1e-4 * own.abs().max()
    assert (own - predict(twins.model, x, SIGMA, prompt)).abs().max() > 1e-2 * own.abs().max()
    with safe_open(path, "pt") as file:
        assert ("ip_adapter.0.to_q_lora.down.weight" in file.keys()) == (tokens == 4)  # IPAdapter_plus looks for it
        assert file.get_tensor("image_proj.proj.0.weight").shape == (1024, 512)


@pytest.mark.parametrize("tokens,family", [(4, "faceid"), (16, "faceid-portrait")])
def test_a_file_names_the_family_of_its_number_of_tokens(trained, tokens, family):
    assert export(trained(face_tokens=tokens)).family == family


@pytest.mark.parametrize(
    "change,message",
    [
        (lambda a: a.streams["face"].kappa.data.fill_(0.2), "removes the text's part .κ = 0.2"),
        (lambda a: a.streams["face"].gate.knots.data.zero_(), "untrained"),
    ],
)
def test_trained_parts_that_a_plain_file_cannot_hold(trained, change, message):
    adapter = trained()
    change(adapter)
    with pytest.raises(FaceCDMError, match=message):
        export(adapter)


@pytest.mark.parametrize(
    "sizes,message",
    [
        ({"interplay": True}, "interplay with the text was trained"),
        ({"knots": 3}, "gates change with the noise level"),
        ({"face_tokens": 5}, "has 5 face tokens .* 4 or 16 tokens"),
        ({"face_rank": 1025}, "rank 1025"),
        ({"face_content": 8}, "share one linear map"),
    ],
)
def test_settings_that_a_plain_file_cannot_hold(trained, sizes, message):
    with pytest.raises(FaceCDMError, match=message):
        export(trained(**sizes))


def test_the_report_says_that_the_image_stream_is_left_out(trained):
    assert "image stream is left out" in export(trained(image_width=32)).report


def test_a_published_adapter_is_exported_unchanged(small, make_state, tmp_path):
    from published import flat
    from safetensors.torch import save_file

    for family in ("faceid-plusv2", "ip-adapter-plus"):
        state = make_state(family)
        save_file(flat(state), tmp_path / f"{family}.safetensors")
        first = load_any(tmp_path / f"{family}.safetensors")
        again = load_any(written(export(first), tmp_path))
        ((stream, part),) = again.config.parts.items()
        assert part.family.key == family and (family != "faceid-plusv2" or part.why == "its metadata")
        mine, theirs = first.state_dict(), again.state_dict()
        assert mine.keys() == theirs.keys() and all(value.equal(theirs[key]) for key, value in mine.items())
        assert first.loras.keys() == again.loras.keys()


def test_an_adapter_that_is_not_read_whole_is_not_exported():
    """ConsistentID's file without its FacialEncoder would be taken for FaceID Plus, whose recipe differs."""
    with pytest.raises(FaceCDMError, match="is ConsistentID, whose FacialEncoder was not loaded.*keep its own file"):
        export(import_adapter(header("consistentid", "SD1.5")))


def test_combined_adapters_are_not_exported(small, make_state, tmp_path):
    from published import flat
    from safetensors.torch import save_file

    both = []
    for family in ("faceid", "ip-adapter"):
        save_file(flat(make_state(family)), tmp_path / f"{family}.safetensors")
        both.append(load_any(tmp_path / f"{family}.safetensors"))
    with pytest.raises(FaceCDMError, match="a combination of two"):
        export(combine(*both))
