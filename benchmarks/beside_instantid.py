"""Run beside the real ComfyUI_InstantID: the same file, face and ControlNet, its nodes and ours, on one small SDXL.

    python benchmarks/beside_instantid.py --comfyui DIR --pack DIR

DIR of --pack holds a clone of ComfyUI_InstantID, which is not part of this project. Printed is the largest difference
of the noise predictions (CFG 3) as part of the largest value: of the U-Net's half, the ControlNet's half, both with
noise for the negative prompt; then both packs on one MODEL in either order. Its node "InstantID Patch Attention"
conditions the middle block, so nothing is silenced here.
"""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

from other_packs import open_pack

SIGMA, CFG, STRENGTH, HELD = 3.0, 3.0, 0.8, 0.6
# How many transformers it expects in each block of SDXL, in the order in which it counts them.
BLOCKS = (
    [("input", block, 2) for block in (4, 5)]
    + [("input", block, 10) for block in (7, 8)]
    + [("output", block, 10) for block in (0, 1, 2)]
    + [("output", block, 2) for block in (3, 4, 5)]
    + [("middle", 0, 10)]
)


def main() -> int:
    open_pack(__doc__, "instantid_pack")
    from instantid_pack import InstantID as theirs

    bench, worst = Bench(theirs), 0.0
    for name, off in (
        ("U-Net", bench.compare(unet=True)),
        ("ControlNet", bench.compare(control=True)),
        ("both, with noise", bench.compare(unet=True, control=True, noise=0.35)),
        ("theirs, then ours / ours, then theirs", bench.both()),
    ):
        print(f"{name:40} {off:.1e}", flush=True)
        worst = max(worst, off)
    return 0 if worst < 1e-4 else 1


class Bench:
    def __init__(self, theirs):
        import torch
        from control_twins import make_control_twins
        from published import SMALL_XL, published_state
        from twins import SMALL_SDXL, conditioning, make_twins

        from facecdm import bases
        from facecdm.faces.value import Face, Faces
        from facecdm.formats.imported import import_adapter
        from facecdm.formats.read import Published
        from facecdm.hosts.comfy.unet import layer_map

        self.theirs, self.model = theirs, make_twins(SMALL_SDXL).model
        self.net = make_control_twins(SMALL_SDXL, seed=1).net
        bases.BASES["small SDXL"] = bases.Base("small SDXL", layer_map(self.model))
        # Its resampler is SDXL's own, whatever the file holds.
        sizes = replace(SMALL_XL, plus=1280, plus_heads=20)
        self.states = [published_state("instantid", layer_map(self.model), sizes, seed) for seed in (0, 5)]
        self.adapters = [
            import_adapter(Published(*state.values(), {}, Path("a.bin")), "instantid") for state in self.states
        ]
        generator = torch.Generator().manual_seed(1)
        self.face = Face(
            torch.randn(512, generator=generator) * 5,
            torch.rand(5, 2),
            torch.tensor([0.0, 0, 9, 9]),
            0.9,
            (10, 10),
            0,
            torch.zeros(8, 8, 3),
        )
        self.faces = Faces((self.face,), "antelopev2/glintr100.onnx")
        self.picture = torch.rand(1, 64, 96, 3, generator=generator)
        self.x = torch.randn(1, 4, 8, 12, generator=generator) * SIGMA
        self.prompts = [
            conditioning(
                torch.randn(1, 77, 128, generator=generator),
                torch.randn(1, 1280, generator=generator),
                height=64,
                width=96,
            )
            for _ in range(2)
        ]

    def epsilon(self, model, prompts):
        from twins import predict

        return predict(model, self.x, SIGMA, *prompts, cfg=CFG)

    def by_theirs(self, number: int = 0, noise: float = 0.0, model=None, control: bool = False):
        """(MODEL, conditionings) of its nodes "InstantID Patch Attention" and "InstantID Apply ControlNet"."""
        face = {"embedding": self.face.embedding.numpy(), "bbox": self.face.box.numpy()}
        recogniser = SimpleNamespace(det_model=SimpleNamespace(), get=lambda image: [face])
        state = self.states[number] | {"ip_adapter": self.numbered(self.states[number]["ip_adapter"])}
        pack = self.theirs.InstantID(state, output_cross_attention_dim=128)
        shown, tokens = self.theirs.InstantIDAttentionPatch().patch_attention(
            pack, recogniser, self.picture, model or self.model, STRENGTH, 0.0, 1.0, noise
        )
        held = self.theirs.ApplyInstantIDControlNet()
        return shown, held.apply_controlnet(
            tokens, self.net, self.picture, *self.prompts, HELD, 0.0, 1.0
        ) if control else self.prompts

    def by_ours(self, number: int = 0, noise: float = 0.0, model=None, control: bool = False):
        from facecdm.hosts.comfy.control.tokens import face_tokens
        from facecdm.hosts.comfy.features import Sources, features

        from facecdm.adapter.person import Person, Stream
        from facecdm.hosts.comfy.control.face_control import control_with_faces
        from facecdm.hosts.comfy.sampling.apply import apply_person

        adapter, sources = self.adapters[number], Sources(self.faces, noise=noise)
        shown = features(adapter, sources)
        model = apply_person(
            model or self.model,
            Person(adapter, shown.face, settings={"face": Stream(STRENGTH)}, negative=shown.negative),
        )
        tokens = face_tokens(adapter, sources)
        return model, control_with_faces(
            *self.prompts, self.net, self.picture, *tokens, HELD, 0.0, 1.0
        ) if control else self.prompts

    def numbered(self, ip_adapter: dict) -> dict:
        """The small U-Net's layers under the numbers that its node gives to SDXL's seventy."""
        import torch

        from facecdm.hosts.comfy.unet import cross_attentions

        ours = {key: number for number, (key, _, _) in enumerate(cross_attentions(self.model))}
        keys = [(part, block, i) for part, block, depth in BLOCKS for i in range(depth)]
        return {
            f"{2 * number + 1}.to_{part}_ip.weight": ip_adapter[f"{2 * ours[key] + 1}.to_{part}_ip.weight"]
            if key in ours
            else torch.zeros(1, 128)
            for number, key in enumerate(keys)
            for part in "kv"
        }

    def compare(self, unet: bool = False, control: bool = False, noise: float = 0.0) -> float:
        given = {"noise": noise, "control": control}
        (theirs, their_prompts), (ours, our_prompts) = self.by_theirs(**given), self.by_ours(**given)
        if not unet:
            theirs = ours = self.model
        expected = self.epsilon(theirs, their_prompts)
        assert off(self.epsilon(self.model, self.prompts), expected) > 1e-2, "it did nothing"
        return off(self.epsilon(ours, our_prompts), expected)

    def both(self) -> float:
        """Two people, one by each pack: either order gives the same picture, and it is neither's alone."""
        theirs, ours = self.by_theirs(0)[0], self.by_ours(1)[0]
        theirs_first = self.epsilon(self.by_ours(1, model=theirs)[0], self.prompts)
        ours_first = self.epsilon(self.by_theirs(0, model=ours)[0], self.prompts)
        for alone in (theirs, ours):
            assert off(self.epsilon(alone, self.prompts), ours_first) > 1e-2, "one of the two did not act"
        return off(theirs_first, ours_first)


def off(one, other) -> float:
    return ((one - other).abs().max() / other.abs().max()).item()


if __name__ == "__main__":
    raise SystemExit(main())
