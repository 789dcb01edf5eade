"""UniPortrait and ConsistentID, LoRA included, against references written from their authors' code."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from decoupled import reference_with_lora
from headers import header
from published import PROJECTORS, SD15, SMALL, SMALL_XL, published_state, random_state
from torch.nn import functional as F
from twins import Twins, conditioning, predict
from uniportrait_reference import (
    consistentid_tokens,
    curricular_face_maps,
    curricular_face_shapes,
    uniportrait_tokens,
)

from facecdm import bases
from facecdm.adapter.features import Features
from facecdm.adapter.person import Person, Stream
from facecdm.adapter.references import SIDE_BY_SIDE
from facecdm.errors import BadFile, FaceCDMError, Mismatch
from facecdm.faces.align import aligned_crop
from facecdm.faces.curricular_face import face_states, load_curricular_face
from facecdm.faces.value import Face, Faces
from facecdm.formats.families import FAMILIES
from facecdm.formats.family import LORA
from facecdm.formats.features import features
from facecdm.formats.imported import ImportedAdapter, import_adapter
from facecdm.formats.read import canonical
from facecdm.formats.recognise import recognise
from facecdm.formats.sources import Sources
from facecdm.formats.vision import VisionOutput
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.sampling.lora import apply_lora
from facecdm.hosts.comfy.unet import layer_map

SIGMA, CFG, STRENGTH, STRUCTURE = 3.0, 3.0, 0.7, 3.0


def as_published(state: dict, family: str) -> dict:
    """A file's tensors under their authors' names."""
    renamed = {}
    for key, value in state["image_proj"].items():
        part = "" if key.startswith("FacialEncoder.") else "faceid_proj." if family == "uniportrait" else "image_proj."
        renamed[f"{part}{key}"] = value
    for key, value in state["ip_adapter"].items():
        name = f"faceid_adapter.{key.replace('_ip.', '_faceid.')}"
        renamed[name if family == "uniportrait" else f"adapter_modules.{key}"] = value
    return renamed


def adapter_of(state: dict, family: str) -> ImportedAdapter:
    adapter = import_adapter(canonical(as_published(state, family), {}, Path("a.bin")))
    assert adapter.config.parts["face"].family.key == family
    return adapter


def uniportrait_features(seed: int):
    generator = torch.Generator().manual_seed(seed)
    states = torch.randn(1, 49, 512, generator=generator), torch.randn(1, 9, 448 + 48, generator=generator)
    return Features(states=states, shortcut=STRUCTURE)


def consistentid_features(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return Features(torch.randn(1, 512, generator=generator), torch.randn(1, 9, 48, generator=generator))


def reference_tokens(state: dict, family: str, shown: Features):
    if family == "uniportrait":
        return uniportrait_tokens(state["image_proj"], *shown.states, 0.1 * STRUCTURE)
    return consistentid_tokens(state["image_proj"], shown.embedding, shown.states)


def compare(twins: Twins, sizes, family: str) -> float:
    """Largest difference between our host and the reference, as part of the output's largest value."""
    state = published_state(family, layer_map(twins.model), sizes)
    adapter = adapter_of(state, family)
    make = uniportrait_features if family == "uniportrait" else consistentid_features
    shown, empty = make(5), make(6)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(1, 4, 8, 12, generator=generator) * SIGMA
    text, pooled = torch.randn(2, 77, twins.context, generator=generator), torch.randn(1, 1280, generator=generator)
    tokens = torch.cat([reference_tokens(state, family, one) for one in (empty, shown)])
    with torch.no_grad(), reference_with_lora(twins, state["ip_adapter"], tokens, STRENGTH):
        negative, positive = twins.diffusers(x.expand(2, -1, -1, -1), SIGMA, text, pooled)
    theirs = (negative + CFG * (positive - negative))[None]

    person = Person(adapter, shown, settings={"face": Stream(STRENGTH)}, negative={"face": empty})
    prompts = [conditioning(text[i : i + 1], pooled, height=64, width=96) for i in (1, 0)]
    model = apply_lora(apply_person(twins.model, person), adapter.loras["face"], 1.0, "a")
    ours = predict(model, x, SIGMA, *prompts, cfg=CFG)
    twins.model.unpatch_model()
    plain = predict(apply_person(twins.model, person), x, SIGMA, *prompts, cfg=CFG)
    scale = theirs.abs().max()
    assert (plain - theirs).abs().max() > 0.01 * scale, "its LoRA has an effect"
    return ((ours - theirs).abs().max() / scale).item()


@pytest.mark.parametrize("family,base", [("uniportrait", "sd15"), ("consistentid", "sd15"), ("consistentid", "sdxl")])
def test_a_whole_file(family, base, request, monkeypatch):
    twins = request.getfixturevalue(f"small_{base}")
    monkeypatch.setitem(bases.BASES, "small", bases.Base("small", layer_map(twins.model)))
    assert compare(twins, SMALL if base == "sd15" else SMALL_XL, family) < 1e-4


@pytest.mark.parametrize("family", ["uniportrait", "consistentid"])
def test_tokens_at_true_widths(family):
    """Of two references together; without the FacialEncoder, which makes no token."""
    shapes = {key: shape for key, shape in PROJECTORS[family](SD15).items() if not key.startswith("FacialEncoder.")}
    state, generator = random_state(shapes, 0), torch.Generator().manual_seed(1)
    projector = FAMILIES[family].projector.of(state)
    projector.load_state_dict(state)
    if family == "uniportrait":
        widths = (98, 512), (512, 1728)
        shown = Features(states=tuple(torch.randn(1, *one, generator=generator) for one in widths), shortcut=STRUCTURE)
    else:
        shown = Features(torch.randn(1, 512, generator=generator), torch.randn(1, 257, 1280, generator=generator))
    with torch.no_grad():
        ours, theirs = projector(shown), reference_tokens({"image_proj": state}, family, shown)
    assert ours.shape == (1, 16 if family == "uniportrait" else 4, SD15.context)
    assert (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


# ---- CurricularFace ----


@pytest.fixture(scope="module")
def backbone() -> dict[str, torch.Tensor]:
    """A made-up file of CurricularFace."""
    generator, found = torch.Generator().manual_seed(0), {}
    for key, shape in curricular_face_shapes().items():
        if not shape:
            found[key] = torch.tensor(1)
            continue
        value = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            found[key] = value * value[0].numel() ** -0.5
        else:
            found[key] = 0.1 * value.abs() + (0.8 if key.endswith(("weight", "running_var")) else 0)
    return found


def test_curricular_faces_states(backbone, tmp_path):
    """Each map is scaled to 16 × 16 as the authors do it, the last keeps its 7 × 7."""
    torch.save(backbone, tmp_path / "backbone.bin")
    crops = torch.rand(1, 224, 224, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        identity, structure = face_states(load_curricular_face(tmp_path / "backbone.bin"), crops)
        halves = crops.movedim(-1, 1).unflatten(-1, (112, 2)).unflatten(-3, (112, 2)).mean((-1, -3))
        *maps, last = curricular_face_maps(backbone, halves * 2 - 1)
    assert [tuple(one.shape[1:]) for one in (*maps, last)] == [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]
    wanted = torch.cat([F.interpolate(one, 16, mode="bilinear", align_corners=False) for one in maps], 1)
    for ours, theirs in ((identity, last), (structure, wanted)):
        theirs = theirs.reshape(1, theirs.shape[1], -1).transpose(1, 2)
        assert ours.shape == theirs.shape and (ours - theirs).abs().max() < 1e-4 * theirs.abs().max()


def test_another_network_is_refused(tmp_path):
    torch.save({"conv.weight": torch.zeros(1)}, tmp_path / "backbone.bin")
    with pytest.raises(BadFile, match="does not hold the weights of CurricularFace.*Get glint360k"):
        load_curricular_face(tmp_path / "backbone.bin")


# ---- features ----


class Tower:
    """A FaceStatesTower with five states of 1280 features, computed from the crops' means."""

    def encode(self, pictures):
        states = pictures.mean((1, 2, 3))[:, None, None] + torch.arange(5.0)[:, None] + torch.zeros(1280)
        return VisionOutput(torch.zeros(len(pictures), 1024), states)

    def encode_empty(self):
        return VisionOutput(torch.zeros(1, 1024), torch.full((1, 5, 1280), 9.0))

    def face_states(self, crops):
        mean = crops.mean((1, 2, 3))[:, None, None]
        return mean + torch.zeros(2, 512), mean + torch.zeros(4, 448)


class ClipVision(Tower):
    """ViT-H alone."""

    face_states = None


POINTS = torch.tensor([[3.0, 3], [6, 3], [4.5, 5], [3, 7], [6, 7]])


def sources(count: int = 2, recogniser: str = "buffalo_l/w600k_r50.onnx", **more) -> Sources:
    """`count` faces whose crops are flat and differ in brightness."""
    faces = tuple(
        Face(torch.ones(512), POINTS, torch.tensor([0.0, 0, 9, 9]), 0.9, (10, 10), 0, torch.full((8, 8, 3), i / 10))
        for i in range(1, count + 1)
    )
    return Sources(Faces(faces, recogniser), Tower(), **more)


@pytest.fixture(scope="module")
def load():
    """An adapter of a family for SD1.5, from a header: features need no weights."""
    return lambda family: SimpleNamespace(config=import_adapter(header(family, "SD1.5")).config)


def test_uniportraits_features(load):
    """Of any recogniser's faces. Without weights, the mean's tokens attend to all references. No class token."""
    adapter, flat = load("uniportrait"), lambda value: torch.full((), value)
    for recogniser in ("buffalo_l/w600k_r50.onnx", "auraface/glintr100.onnx"):
        found = features(adapter, sources(recogniser=recogniser, shortcut=2.0))
        identity, structure = found.face.states
        assert (identity.shape, structure.shape, found.face.shortcut) == ((1, 4, 512), (1, 8, 1728), 2.0)
        torch.testing.assert_close(identity[0, :, 0], torch.tensor([0.1, 0.1, 0.2, 0.2]))
        torch.testing.assert_close(structure[0, :, 447], torch.tensor([0.1] * 4 + [0.2] * 4))
        torch.testing.assert_close(structure[0, :, 448], torch.tensor([1.1, 2.1, 3.1, 4.1, 1.2, 2.2, 3.2, 4.2]))
    none, patches = found.negative["face"].states
    assert none.shape == (1, 2, 512) and not none.any() and not patches[..., :448].any()
    assert patches.shape == (1, 4, 1728) and patches[..., 448:].eq(flat(9.0)).all()
    apart = features(adapter, sources(references=SIDE_BY_SIDE))
    assert apart.face.states[0].shape == (2, 2, 512) and apart.negative["face"].count == 2
    weighted = features(adapter, sources(weights=(3.0, 1.0)))
    torch.testing.assert_close(weighted.face.states[0][0, :, 0], torch.tensor([0.125, 0.125]))


def test_uniportrait_needs_curricular_face(load):
    with pytest.raises(Mismatch, match="no CurricularFace.*connect clip_vision of Load FaceCDM Adapter"):
        features(load("uniportrait"), replace(sources(), clip_vision=ClipVision()))


def test_consistentids_features(load):
    """The normed embedding, and the states of the whole picture of each face."""
    adapter, pictures = load("consistentid"), torch.stack([torch.full((6, 6, 3), 0.3), torch.full((6, 6, 3), 0.5)])
    found = features(adapter, sources(references=SIDE_BY_SIDE, image=pictures)).face
    torch.testing.assert_close(found.states[:, 0, 0], torch.tensor([0.3, 0.5]))
    torch.testing.assert_close(found.embedding.norm(dim=1), torch.ones(2))
    one = features(adapter, sources(references=SIDE_BY_SIDE, image=pictures[:1]))
    torch.testing.assert_close(one.face.states[:, 0, 0], torch.tensor([0.3, 0.3]))
    negative = one.negative["face"]
    assert not negative.embedding.any() and negative.states.eq(9).all()
    with pytest.raises(Mismatch, match="image has 2 pictures, and the 3 faces were not found"):
        features(adapter, sources(3, image=pictures))
    with pytest.raises(FaceCDMError, match="ConsistentID needs the whole image: connect the picture of Detect"):
        features(adapter, sources())


def test_consistentid_finds_the_picture_of_each_face(load):
    """Or warns that it takes the pictures in the order of the faces."""
    bright = torch.tensor([0.3, 0.6])
    pictures = bright[:, None, None, None] + torch.linspace(0, 0.2, 40)[:, None].expand(2, 40, 40, 3)
    given = sources(references=SIDE_BY_SIDE, image=pictures)
    crops = [aligned_crop((picture.numpy() * 255).astype("uint8"), POINTS.numpy(), 64) for picture in pictures]
    found_in = tuple(
        replace(face, image_size=(40, 40), crop=torch.from_numpy(crop).float() / 255)
        for face, crop in zip(given.faces, reversed(crops))
    )
    adapter, found = load("consistentid"), replace(given, faces=replace(given.faces, faces=found_in))
    for one, order, warned in ((found, [1, 0], 0), (given, [0, 1], 1)):
        inputs = features(adapter, one)
        torch.testing.assert_close(inputs.face.states[:, 0, 0], pictures.mean((1, 2, 3))[order])
        assert len(inputs.unused_inputs) == warned
    assert "so ConsistentID uses the pictures in the order of the faces" in inputs.unused_inputs[0]


def test_a_negative_image_is_for_the_face_stream(load):
    pictures = torch.full((1, 6, 6, 3), 0.3)
    for family in ("uniportrait", "consistentid"):
        found = features(load(family), sources(1, image=pictures, negative_image=torch.full((1, 6, 6, 3), 0.7)))
        states = found.negative["face"].states
        last = states[1][0, 0, 448] - 1 if family == "uniportrait" else states[0, 0, 0]
        torch.testing.assert_close(last, torch.tensor(0.7))


def test_noise_is_added_to_the_empty_face(load):
    for family in ("uniportrait", "consistentid"):
        picture = torch.full((1, 6, 6, 3), 0.3)
        found = features(load(family), sources(1, image=picture, noise=0.4)).negative["face"]
        added = found.states[0] if family == "uniportrait" else found.embedding
        assert 0.3 < added.max() <= 0.4 and added.min() >= 0


def test_their_reports():
    for family, words in (("uniportrait", "reads CurricularFace"), ("consistentid", "FacialEncoder, which changes")):
        report = recognise(header(family, "SD1.5")).report()
        assert words in report and "LoRA inside: rank 128" in report


def test_the_default_lora_strength_is_their_full_lora():
    """And FaceID's recommended one."""
    full = {family.key: LORA * family.lora_factor for family in FAMILIES.values()}
    assert full["uniportrait"] == full["consistentid"] == 1.0 and full["faceid"] == LORA
