"""IPAdapter_plus itself in this process: the same files and pictures through its nodes and ours, on a small U-Net.

Set FACECDM_IPADAPTER_PLUS to a clone of it. Our middle block is switched off, since its is never conditioned; both
packs use a black empty picture.
"""

import importlib
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from other_packs import difference, other_pack
from published import SMALL, published_state
from twins import conditioning, new_adapter, predict, stir

from facecdm.adapter.person import Person, Stream
from facecdm.bases import BASES
from facecdm.faces.align import aligned_crop
from facecdm.faces.value import Face, Faces
from facecdm.formats.export import export
from facecdm.formats.families import FAMILIES
from facecdm.formats.features import features
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import Published
from facecdm.formats.sources import Sources
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import layer_map

SIGMA, CFG, STRENGTH, SHORTCUT = 3.0, 3.0, 0.8, 0.7
# Families whose name its loader reads from the file's name.
BY_NAME = {"faceid-plusv2": "faceidplusv2", "faceid-portrait-unnorm": "portraitunnorm"}
COMPARED = (
    "ip-adapter",
    "ip-adapter-plus",
    "ip-adapter-full-face",
    "faceid",
    "faceid-plus",
    "faceid-plusv2",
    "faceid-portrait",
    "faceid-portrait-unnorm",
)
# Heads as IPAdapter_plus has them: 12 in a resampler, a 64th of the text's width in a perceiver.
SIZES = replace(SMALL, plus=96, plus_heads=12, face_heads=1, states=48, pooled=24)

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("small", ["sd15"], indirect=True)]


@pytest.fixture(scope="module")
def theirs(in_comfy):
    return importlib.import_module(f"{other_pack('ipadapter_plus').__name__}.IPAdapterPlus")


@pytest.fixture
def bench(small, theirs, tmp_path, monkeypatch):
    monkeypatch.setitem(BASES, "small sd15", replace(BASES["small sd15"], face_crop=224))  # as for SD1.5
    return Bench(small[0].model, theirs, tmp_path)


class Bench:
    """One face, one picture, two prompts; a MODEL by either pack, and its noise prediction."""

    def __init__(self, model, theirs, folder: Path):
        from facecdm.hosts.comfy.vision import ComfyVision

        class BlackEmptyPicture(ComfyVision):
            def encode_empty(self):
                return self.encode(torch.zeros(1, 224, 224, 3))

        self.model, self.theirs, self.map = model, theirs, layer_map(model)
        self.vision = small_vision(folder, SIZES.states, SIZES.pooled)
        self.tower = BlackEmptyPicture(self.vision)
        generator = torch.Generator().manual_seed(1)
        # Between two whole numbers of 0 … 255, so that rounding and cutting off agree.
        self.picture, self.avoided = (
            (torch.randint(0, 255, (1, side, side, 3), generator=generator) + 0.25) / 255 for side in (300, 224)
        )
        points = torch.tensor([[110.0, 110], [175, 118], [140, 160], [110, 190], [165, 196]])
        crop = aligned_crop((self.picture[0] * 255).round().to(torch.uint8).numpy(), points.numpy(), 224)
        embedding, box = torch.randn(512, generator=generator) * 5, torch.tensor([80.0, 60, 200, 230])
        self.face = Face(embedding, points, box, 0.9, (300, 300), 0, torch.from_numpy(crop).float() / 255)
        self.faces = Faces((self.face,), "buffalo_l/w600k_r50.onnx")
        self.x = torch.randn(1, 4, 8, 8, generator=generator) * SIGMA
        self.prompts = [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(2)]

    def predict(self, model, cfg: float = CFG):
        return predict(model, self.x, SIGMA, *self.prompts, cfg=cfg)

    def state(self, family: str, seed: int = 0) -> dict:
        """A made-up file with a LoRA of zeros: IPAdapter_plus recognises FaceID by it and does not apply it."""
        sizes = replace(SIZES, plus=1280) if family == "faceid-portrait-unnorm" else SIZES
        state = published_state(family, self.map, sizes, seed)
        for key, value in state["ip_adapter"].items():
            if "_lora.up" in key:
                value.zero_()
        return state

    def by_theirs(self, state: dict, family: str, model=None, negative_image=None):
        found = SimpleNamespace(
            normed_embedding=(self.face.embedding / self.face.embedding.norm()).numpy(),
            embedding=self.face.embedding.numpy(),
            kps=self.face.keypoints.numpy(),
        )
        recogniser = SimpleNamespace(det_model=SimpleNamespace(), get=lambda image: [found])
        own = {part: dict(inner) for part, inner in state.items()}
        if family in BY_NAME:
            own[BY_NAME[family]] = True
        with torch.no_grad():
            return self.theirs.IPAdapterAdvanced().apply_ipadapter(
                model or self.model,
                own,
                image=self.picture,
                clip_vision=self.vision,
                insightface=recogniser,
                weight=STRENGTH,
                weight_faceidv2=SHORTCUT,
                image_negative=negative_image,
            )[0]

    def by_ours(self, state: dict, family: str, model=None, negative_image=None, middle: bool = False):
        adapter = import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")), family)
        stream = FAMILIES[family].stream
        shown = features(
            adapter,
            Sources(
                self.faces if stream == "face" else None,
                self.tower,
                self.picture,
                negative_image=negative_image,
                shortcut=SHORTCUT,
            ),
        )
        settings = {stream: Stream(STRENGTH, (1.0,) * 15 + (float(middle),))}
        person = Person(adapter, shown.face, shown.image, settings, negative=shown.negative)
        return apply_person(model or self.model, person)


@pytest.mark.parametrize("family", COMPARED)
def test_a_family(bench, family):
    state = bench.state(family)
    theirs = bench.predict(bench.by_theirs(state, family))
    assert difference(bench.predict(bench.model), theirs) > 1e-2, "it acts"
    assert difference(bench.predict(bench.by_ours(state, family)), theirs) < 1e-4
    assert difference(bench.predict(bench.by_ours(state, family, middle=True)), theirs) > 1e-3, "the stated difference"


@pytest.mark.parametrize("family", ["ip-adapter-plus", "faceid-plusv2"])
def test_a_negative_picture(bench, family):
    state = bench.state(family)
    theirs = bench.predict(bench.by_theirs(state, family, negative_image=bench.avoided))
    assert difference(bench.predict(bench.by_theirs(state, family)), theirs) > 1e-3, "it acts"
    assert difference(bench.predict(bench.by_ours(state, family, negative_image=bench.avoided)), theirs) < 1e-4


def test_both_packs_in_either_order(bench):
    one, two = bench.state("ip-adapter-plus"), bench.state("faceid", 3)
    theirs, ours = bench.by_theirs(one, "ip-adapter-plus"), bench.by_ours(two, "faceid", middle=True)
    alone = [bench.predict(theirs), bench.predict(ours)]
    theirs_first = bench.predict(bench.by_ours(two, "faceid", theirs, middle=True))
    ours_first = bench.predict(bench.by_theirs(one, "ip-adapter-plus", ours))
    assert difference(theirs_first, ours_first) < 1e-4
    assert all(difference(one, ours_first) > 1e-2 for one in alone), "both act"
    assert alone[0].equal(bench.predict(theirs)) and alone[1].equal(bench.predict(ours)), "each is as it was"


@pytest.mark.parametrize("tokens", [4, 16])
def test_our_export_in_its_loader(bench, tokens, tmp_path):
    """At CFG 1, since it gives the negative prompt the tokens of an empty face and we leave it unchanged."""
    adapter = stir(new_adapter(bench.map, face_tokens=tokens, image_width=0, interplay=False, knots=1))
    adapter.streams["face"].kappa.data.zero_()
    path = tmp_path / "plain.safetensors"
    path.write_bytes(export(adapter).data("plain"))
    utils = importlib.import_module(bench.theirs.__name__.replace("IPAdapterPlus", "utils"))
    theirs = bench.predict(bench.by_theirs(utils.ipadapter_model_loader(str(path)), "faceid"), 1.0)
    assert difference(bench.predict(bench.model, 1.0), theirs) > 1e-2, "it acts"
    settings = {"face": Stream(STRENGTH, (1.0,) * 15 + (0.0,))}
    ours = apply_person(bench.model, Person(adapter, bench.faces.normed, settings=settings))
    assert difference(bench.predict(ours, 1.0), theirs) < 1e-4


def small_vision(folder: Path, width: int, pooled: int):
    """A CLIP_VISION of random weights for pictures of 224 × 224."""
    import comfy.clip_vision

    config = {
        "model_type": "clip_vision_model",
        "hidden_size": width,
        "intermediate_size": width,
        "projection_dim": pooled,
        "num_attention_heads": 2,
        "num_hidden_layers": 2,
        "num_channels": 3,
        "image_size": 224,
        "patch_size": 56,
        "hidden_act": "quick_gelu",
        "layer_norm_eps": 1e-5,
    }
    file = folder / "config.json"
    file.write_text(json.dumps(config))
    vision = comfy.clip_vision.ClipVisionModel(str(file))
    generator = torch.Generator().manual_seed(0)
    for value in vision.model.parameters():
        value.data = torch.randn(value.shape, generator=generator).to(value) * 0.1
    return vision
