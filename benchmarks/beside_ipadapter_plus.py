"""Run beside the real IPAdapter_plus: the same files and pictures, its nodes and ours, on one small U-Net.

    python benchmarks/beside_ipadapter_plus.py --comfyui DIR --pack DIR

DIR of --pack holds a clone of ComfyUI_IPAdapter_plus, which is not part of this project. Printed is the largest
difference of the noise predictions (CFG 3) as part of the largest value: with our middle block silent, as it is there;
and with it, which is the stated difference. Then both packs on one MODEL in either order, and our export in its loader.
"""

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

from other_packs import open_pack

FAMILIES = (
    "ip-adapter",
    "ip-adapter-plus",
    "ip-adapter-full-face",
    "faceid",
    "faceid-plus",
    "faceid-plusv2",
    "faceid-portrait",
    "faceid-portrait-unnorm",
)
TOLD = {"faceid-plusv2": "faceidplusv2", "faceid-portrait-unnorm": "portraitunnorm"}
SIGMA, CFG = 3.0, 3.0


def main() -> int:
    open_pack(__doc__, "ipadapter_plus")
    from ipadapter_plus import IPAdapterPlus as theirs

    bench, worst = Bench(theirs), 0.0
    for family in FAMILIES:
        silent, whole = bench.family(family)
        print(f"{family:24} middle silent {silent:.1e}   with the middle block {whole:.1e}", flush=True)
        worst = max(worst, silent)
    for name, off in (
        ("with a negative picture", bench.avoiding()),
        ("theirs, then ours / ours, then theirs", bench.both()),
        ("our export of 4 tokens in its loader", bench.export(4)),
        ("our export of 16 tokens in its loader", bench.export(16)),
    ):
        print(f"{name:44} {off:.1e}", flush=True)
        worst = max(worst, off)
    return 0 if worst < 1e-4 else 1


class Bench:
    def __init__(self, theirs):
        import torch
        from published import SMALL
        from twins import SMALL_SD15, conditioning, make_twins

        from facecdm import bases
        from facecdm.faces.align import aligned_crop
        from facecdm.faces.value import Face, Faces
        from facecdm.hosts.comfy.unet import layer_map

        self.theirs, self.torch = theirs, torch
        self.model = make_twins(SMALL_SD15).model
        self.map = layer_map(self.model)
        bases.BASES["small"] = bases.Base("small", self.map)
        # Heads as IPAdapter_plus has them: 12 in a resampler, a 64th of the text's width in a perceiver.
        self.sizes = replace(SMALL, plus=96, plus_heads=12, face_heads=1, states=48, pooled=24)
        self.vision = small_vision(48, 24)
        generator = torch.Generator().manual_seed(1)
        # Between two whole numbers of 0 … 255, so that rounding and cutting off agree.
        self.picture = (torch.randint(0, 255, (1, 300, 300, 3), generator=generator) + 0.25) / 255
        points = torch.tensor([[110.0, 110], [175, 118], [140, 160], [110, 190], [165, 196]])
        # What Detect & Embed Faces would have cut out: by it a face knows its picture.
        crop = aligned_crop((self.picture[0] * 255).round().to(torch.uint8).numpy(), points.numpy(), 224)
        self.face = Face(
            torch.randn(512, generator=generator) * 5,
            points,
            torch.tensor([80.0, 60, 200, 230]),
            0.9,
            (300, 300),
            0,
            torch.from_numpy(crop).float() / 255,
        )
        self.faces = Faces((self.face,), "buffalo_l/w600k_r50.onnx")
        self.avoided = (torch.randint(0, 255, (1, 224, 224, 3), generator=generator) + 0.25) / 255
        self.x = torch.randn(1, 4, 8, 8, generator=generator) * SIGMA
        self.prompts = [conditioning(torch.randn(1, 77, 96, generator=generator)) for _ in range(2)]

    def epsilon(self, model, cfg: float = CFG):
        from twins import predict

        return predict(model, self.x, SIGMA, *self.prompts, cfg=cfg)

    def off(self, one, other) -> float:
        return ((one - other).abs().max() / other.abs().max()).item()

    def by_theirs(self, state: dict, family: str, model=None, negative_image=None):
        """MODEL with IPAdapter_plus' own node; its empty picture is black, so ours is told to be, too."""
        recogniser = SimpleNamespace(
            det_model=SimpleNamespace(),
            get=lambda image: [
                SimpleNamespace(
                    normed_embedding=(self.face.embedding / self.face.embedding.norm()).numpy(),
                    embedding=self.face.embedding.numpy(),
                    kps=self.face.keypoints.numpy(),
                )
            ],
        )
        own = {part: dict(inner) for part, inner in state.items()}
        if family in TOLD:  # as its loader does where a file's name says so
            own[TOLD[family]] = True
        with self.torch.no_grad():
            return self.theirs.IPAdapterAdvanced().apply_ipadapter(
                model or self.model,
                own,
                image=self.picture,
                clip_vision=self.vision,
                insightface=recogniser,
                weight=0.8,
                weight_faceidv2=0.7,
                image_negative=negative_image,
            )[0]

    def by_ours(self, state: dict, family: str, middle: bool, model=None, negative_image=None):
        import facecdm.hosts.comfy.features as looking

        from facecdm.adapter.person import Person, Stream
        from facecdm.formats.families import FAMILIES as KNOWN
        from facecdm.formats.families import POOLED
        from facecdm.formats.imported import import_adapter
        from facecdm.formats.read import Published
        from facecdm.hosts.comfy.sampling.apply import apply_person

        adapter = import_adapter(Published(state["image_proj"], state["ip_adapter"], {}, Path("a.bin")), family)
        kind = KNOWN[family]
        black = self.torch.zeros(1, 224, 224, 3) if kind.vision and kind.vision != POOLED else None
        with (
            mock.patch.object(looking, "aligned", lambda faces, picture, size: self.aligned(faces, picture, 224)),
            mock.patch.object(looking, "look_at_nothing", lambda vision: looking.look(vision, black)),
        ):
            shown = looking.features(
                adapter,
                looking.Sources(
                    self.faces if kind.stream == "face" else None,
                    self.vision,
                    self.picture,
                    negative_image=negative_image,
                    shortcut=0.7,
                ),
            )
        curve = (1.0,) * 15 + (float(middle),)
        return apply_person(
            model or self.model,
            Person(adapter, shown.face, shown.image, {kind.stream: Stream(0.8, curve)}, negative=shown.negative),
        )

    @property
    def aligned(self):
        from facecdm.formats.crops import aligned

        return aligned

    def state(self, family: str, seed: int = 0) -> dict:
        """A made-up file with a FaceID LoRA of zeros: IPAdapter_plus knows FaceID by it and does not apply it."""
        from published import published_state

        sizes = replace(self.sizes, plus=1280) if family == "faceid-portrait-unnorm" else self.sizes
        state = published_state(family, self.map, sizes, seed)
        for key, value in state["ip_adapter"].items():
            if "_lora.up" in key:
                value.zero_()
        return state

    def family(self, family: str) -> tuple[float, float]:
        state = self.state(family)
        theirs = self.epsilon(self.by_theirs(state, family))
        assert self.off(self.epsilon(self.model), theirs) > 1e-2, "it did nothing"
        return tuple(self.off(self.epsilon(self.by_ours(state, family, middle)), theirs) for middle in (False, True))

    def avoiding(self) -> float:
        """With a negative picture, in a Plus and in a FaceID PlusV2."""
        worst = 0.0
        for family in ("ip-adapter-plus", "faceid-plusv2"):
            state = self.state(family)
            theirs = self.epsilon(self.by_theirs(state, family, negative_image=self.avoided))
            assert self.off(self.epsilon(self.by_theirs(state, family)), theirs) > 1e-3, "it made no difference"
            worst = max(
                worst, self.off(self.epsilon(self.by_ours(state, family, False, negative_image=self.avoided)), theirs)
            )
        return worst

    def both(self) -> float:
        """Either order gives the same picture, and it is neither's alone."""
        one, two = self.state("ip-adapter-plus"), self.state("faceid", 3)
        theirs_first = self.epsilon(self.by_ours(two, "faceid", True, self.by_theirs(one, "ip-adapter-plus")))
        ours_first = self.epsilon(self.by_theirs(one, "ip-adapter-plus", self.by_ours(two, "faceid", True)))
        for alone in (self.by_theirs(one, "ip-adapter-plus"), self.by_ours(two, "faceid", True)):
            assert self.off(self.epsilon(alone), ours_first) > 1e-2, "one of the two did not act"
        return self.off(theirs_first, ours_first)

    def export(self, tokens: int) -> float:
        """The file in their loader, against the adapter itself. At CFG 1: the negative prompt sees nobody's tokens
        there, and nothing here.
        """
        from twins import new_adapter, stir

        from facecdm.adapter.person import Person, Stream
        from facecdm.formats.export import export
        from facecdm.hosts.comfy.sampling.apply import apply_person

        adapter = stir(new_adapter(self.map, face_tokens=tokens, image_width=0, interplay=False, knots=1))
        adapter.streams["face"].kappa.data.zero_()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "plain.safetensors"
            path.write_bytes(export(adapter).data("plain"))
            from ipadapter_plus.utils import ipadapter_model_loader

            state = ipadapter_model_loader(str(path))
        theirs = self.epsilon(self.by_theirs(state, "faceid"), 1.0)
        assert self.off(self.epsilon(self.model, 1.0), theirs) > 1e-2, "it did nothing"
        ours = apply_person(
            self.model, Person(adapter, self.faces.normed, settings={"face": Stream(0.8, (1.0,) * 15 + (0.0,))})
        )
        return self.off(self.epsilon(ours, 1.0), theirs)


def small_vision(width: int, pooled: int):
    """A CLIP_VISION of random weights that sees 224 × 224."""
    import comfy.clip_vision
    import torch

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "config.json"
        file.write_text(
            json.dumps(
                {
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
            )
        )
        vision = comfy.clip_vision.ClipVisionModel(str(file))
    generator = torch.Generator().manual_seed(0)
    for value in vision.model.parameters():
        value.data = torch.randn(value.shape, generator=generator).to(value) * 0.1
    return vision


if __name__ == "__main__":
    raise SystemExit(main())
