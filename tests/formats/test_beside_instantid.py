"""ComfyUI_InstantID itself in this process: the same file, face and ControlNet through its nodes and ours.

Set FACECDM_INSTANTID to a clone of it. Its node "InstantID Patch Attention" conditions the middle block, so ours is
compared whole.
"""

import importlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from control_twins import make_control_twins
from other_packs import difference, other_pack
from published import SMALL_XL, published_state
from twins import SMALL_SDXL, conditioning, predict

from facecdm.adapter.person import Person, Stream
from facecdm.faces.value import Face, Faces
from facecdm.formats.features import features
from facecdm.formats.imported import import_adapter
from facecdm.formats.read import Published
from facecdm.formats.sources import Sources
from facecdm.formats.tokens import face_tokens
from facecdm.hosts.comfy.sampling.apply import apply_person
from facecdm.hosts.comfy.unet import cross_attentions, layer_map

SIGMA, CFG, STRENGTH, CONTROL = 3.0, 3.0, 0.8, 0.6
# Transformers that it expects in each block of SDXL, in its own order.
BLOCKS = (
    [("input", block, 2) for block in (4, 5)]
    + [("input", block, 10) for block in (7, 8)]
    + [("output", block, 10) for block in (0, 1, 2)]
    + [("output", block, 2) for block in (3, 4, 5)]
    + [("middle", 0, 10)]
)

pytestmark = [pytest.mark.slow, pytest.mark.parametrize("small", ["sdxl"], indirect=True)]


@pytest.fixture(scope="module")
def theirs(in_comfy):
    return importlib.import_module(f"{other_pack('instantid').__name__}.InstantID")


@pytest.fixture
def bench(small, theirs):
    return Bench(small[0].model, theirs)


class Bench:
    """One face, one picture, two prompts and two files; MODEL and conditionings by either pack."""

    def __init__(self, model, theirs):
        self.model, self.theirs = model, theirs
        self.net = make_control_twins(SMALL_SDXL, seed=1).net
        sizes = replace(SMALL_XL, plus=1280, plus_heads=20)  # its resampler has SDXL's sizes, whatever the file holds
        self.states = [published_state("instantid", layer_map(model), sizes, seed) for seed in (0, 5)]
        self.adapters = [
            import_adapter(Published(*state.values(), {}, Path("a.bin")), "instantid") for state in self.states
        ]
        generator = torch.Generator().manual_seed(1)
        embedding, box = torch.randn(512, generator=generator) * 5, torch.tensor([0.0, 0, 9, 9])
        self.face = Face(embedding, torch.rand(5, 2), box, 0.9, (10, 10), 0, torch.zeros(8, 8, 3))
        self.faces = Faces((self.face,), "antelopev2/glintr100.onnx")
        self.picture = torch.rand(1, 64, 96, 3, generator=generator)
        self.x = torch.randn(1, 4, 8, 12, generator=generator) * SIGMA
        self.prompts = []
        for _ in range(2):
            text, pooled = torch.randn(1, 77, 128, generator=generator), torch.randn(1, 1280, generator=generator)
            self.prompts.append(conditioning(text, pooled, height=64, width=96))

    def predict(self, model, prompts=None):
        return predict(model, self.x, SIGMA, *(prompts or self.prompts), cfg=CFG)

    def by_theirs(self, number: int = 0, noise: float = 0.0, model=None):
        """By "InstantID Patch Attention" and "InstantID Apply ControlNet"."""
        face = {"embedding": self.face.embedding.numpy(), "bbox": self.face.box.numpy()}
        recogniser = SimpleNamespace(det_model=SimpleNamespace(), get=lambda image: [face])
        state = self.states[number] | {"ip_adapter": self.renumbered(self.states[number]["ip_adapter"])}
        pack = self.theirs.InstantID(state, output_cross_attention_dim=128)
        shown, tokens = self.theirs.InstantIDAttentionPatch().patch_attention(
            pack, recogniser, self.picture, model or self.model, STRENGTH, 0.0, 1.0, noise
        )
        prompts = self.theirs.ApplyInstantIDControlNet().apply_controlnet(
            tokens, self.net, self.picture, *self.prompts, CONTROL, 0.0, 1.0
        )
        return shown, prompts

    def by_ours(self, number: int = 0, noise: float = 0.0, model=None):
        from facecdm.hosts.comfy.control.face_control import control_with_faces

        adapter, sources = self.adapters[number], Sources(self.faces, noise=noise)
        shown = features(adapter, sources)
        person = Person(adapter, shown.face, settings={"face": Stream(STRENGTH)}, negative=shown.negative)
        tokens = face_tokens(adapter, sources)
        prompts = control_with_faces(*self.prompts, self.net, self.picture, *tokens, CONTROL, 0.0, 1.0)
        return apply_person(model or self.model, person), prompts

    def renumbered(self, ip_adapter: dict) -> dict:
        """The small U-Net's layers under the numbers that its node gives to SDXL's seventy."""
        ours = {found.key: number for number, found in enumerate(cross_attentions(self.model))}
        keys = [(part, block, i) for part, block, depth in BLOCKS for i in range(depth)]
        return {
            f"{2 * number + 1}.to_{part}_ip.weight": ip_adapter[f"{2 * ours[key] + 1}.to_{part}_ip.weight"]
            if key in ours
            else torch.zeros(1, 128)
            for number, key in enumerate(keys)
            for part in "kv"
        }


@pytest.mark.parametrize("halves,noise", [("unet", 0.0), ("control", 0.0), ("both", 0.35)])
def test_each_half_and_both_with_noise(bench, halves, noise):
    noises = []
    for model, prompts in (bench.by_theirs(noise=noise), bench.by_ours(noise=noise)):
        model = bench.model if halves == "control" else model
        noises.append(bench.predict(model, bench.prompts if halves == "unet" else prompts))
    assert difference(bench.predict(bench.model), noises[0]) > 1e-2, "it acts"
    assert difference(noises[1], noises[0]) < 1e-4


def test_both_packs_in_either_order(bench):
    theirs, ours = bench.by_theirs(0)[0], bench.by_ours(1)[0]
    alone = [bench.predict(theirs), bench.predict(ours)]
    theirs_first = bench.predict(bench.by_ours(1, model=theirs)[0])
    ours_first = bench.predict(bench.by_theirs(0, model=ours)[0])
    assert difference(theirs_first, ours_first) < 1e-4
    assert all(difference(one, ours_first) > 1e-2 for one in alone), "both act"
    assert alone[0].equal(bench.predict(theirs)) and alone[1].equal(bench.predict(ours)), "each is as it was"
