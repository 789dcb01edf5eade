"""Two people in one image: does each half show its own person, and does a person affect the other half?

    python benchmarks/two_people.py --adapter FILE --faceworld DIR --comfyui DIR --models DIR/models [--pairs 24]

Pairs of FaceWorld's `val` identities (or one pair, --identities, repeatedly), two of the demo model's pictures wide, a
prompt for each half (captions of the person's other views, so other hair, clothes and background), masks of Person
Regions as in workflows/api/two_people.json. A LoRA beside the adapter (NAME_lora) is applied. --views restricts the
references, where an adapter was trained on the other views. The adapter is conditioned on the face locations of the
references, unless --without-location. In each half the best face is compared with both references (ArcFace cosine,
after the mean embedding of the other people is subtracted); a half without a face counts as a miss. The same noise and
prompts are sampled without masks, and without people. `reach` is how much the left half's pixels change when only the
right person changes, as a share of the right half's change.
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from shared import add_sampling, open_comfyui, with_lora_beside  # isort: skip

from facecdm.adapter.native import load_adapter
from facecdm.adapter.person import Person
from facecdm.demo import data, measure
from facecdm.demo.weights import read_sizes
from facecdm.people import parse_boxes, regions_of_boxes

SIDE = read_sizes().image_size
HALVES = regions_of_boxes(parse_boxes("0 0 0.5 1\n0.5 0 1 1"), SIDE, 2 * SIDE, softness=0.2).masks


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--adapter", type=Path, required=True, help="a trained adapter for the demo model")
    add("--faceworld", type=Path, required=True)
    add("--comfyui", type=Path, required=True)
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--cache", type=Path, default=Path("runs/bench-cache"), help="decoded FaceWorld pictures")
    add("--pairs", type=int, default=24)
    add("--identities", nargs=2, metavar="ID", help="one pair, as val-0009 val-0014, drawn --pairs times")
    add("--views", type=int, nargs="+", default=list(range(12)), help="which may be the reference")
    add_sampling(parser)
    add("--strength", type=float, default=1.0)
    add("--without-location", action="store_true", help="do not condition the adapter on face locations")
    add("--out", type=Path, default=Path("output/two_people.json"), help="results; pictures go beside it")
    add("--threads", type=int, default=0)
    return parser.parse_args()


@dataclass(frozen=True)
class Identity:
    """A val identity.

    reference  row of its reference
    prompts    captions of other views
    face, picture, keypoints  embedding, image, [5, 2] in 0…1 of the reference
    """

    reference: int
    prompts: list[str]
    face: Tensor
    picture: Tensor
    keypoints: Tensor


class PairSampler:
    """The demo model with the adapter; samples images of two people."""

    def __init__(self, options: argparse.Namespace):
        from facecdm.hosts.comfy.demo import model as comfy_demo
        from facecdm.hosts.comfy.demo.guidance import guided

        self.demo, self.adapter, self.how = comfy_demo.load(), load_adapter(options.adapter), options
        self.model = with_lora_beside(guided(self.demo.model, options.attention_guidance), options.adapter)

    def generate(self, people: list[Identity], seed: int, how: str, prompts: list[str]) -> Tensor:
        """[SIDE, 2 · SIDE, 3]; `how` is masks, everywhere (people without masks), or base (the base model alone)."""
        import comfy.sample
        import node_helpers

        from facecdm.hosts.comfy.sampling.apply import apply_person

        model = self.demo.model
        if how != "base":
            model = self.model
            for half, (identity, mask) in enumerate(zip(people, HALVES)):
                model = apply_person(model, self._person(identity, half, mask if how == "masks" else None))
        positive = []
        for text, mask in zip(prompts, HALVES):
            positive += node_helpers.conditioning_set_values(
                self._encode(text), {"mask": mask[None], "set_area_to_bounds": True, "mask_strength": 1.0}
            )
        latent = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, SIDE // 8, SIDE // 4))
        noise = comfy.sample.prepare_noise(latent, seed)
        sampled = comfy.sample.sample(
            model,
            noise,
            self.how.steps,
            self.how.cfg,
            self.how.sampler,
            self.how.scheduler,
            positive,
            self._encode(""),
            latent,
            seed=seed,
            disable_pbar=True,
        )
        return self.demo.vae.decode(sampled)[0]

    def _encode(self, text: str) -> list:
        return self.demo.clip.encode_from_tokens_scheduled(self.demo.clip.tokenize(text))

    def _person(self, identity: Identity, half: int, mask: Tensor | None) -> Person:
        from facecdm.adapter.person import Stream

        states = None
        if self.adapter.config.image_width:
            states = self.demo.clip_vision.encode_image(identity.picture[None]).penultimate_hidden_states.float()
        settings = {name: Stream(self.how.strength) for name in ("face", "image")}
        keypoints = (identity.keypoints + identity.keypoints.new_tensor([half, 0])) / identity.keypoints.new_tensor(
            [2, 1]
        )
        return Person(
            self.adapter,
            F.normalize(identity.face, dim=0)[None],
            states,
            settings,
            mask,
            keypoints=None if self.how.without_location else keypoints[None],
        )


def halves(picture: Tensor) -> list[Tensor]:
    return [picture[:, :SIDE], picture[:, SIDE:]]


def to_bytes(pictures: list[Tensor]) -> Tensor:
    return (torch.stack(pictures) * 255).round().to(torch.uint8)


def score_halves(picture: Tensor, people: list[Identity], analyzer, centre: Tensor) -> list[dict]:
    """For each half: whether it has a face, its cosines to both references, and whether its own is higher."""
    results = []
    for half, found in enumerate(measure.embeddings(to_bytes(halves(picture)), analyzer)):
        if found is None:
            results.append({"face": False, "own": 0.0, "other": 0.0, "right": False})
            continue
        own, other = (
            F.cosine_similarity(found - centre, people[n].face - centre, dim=0).item() for n in (half, 1 - half)
        )
        results.append({"face": True, "own": own, "other": other, "right": own > other})
    return results


def reach(first: Tensor, second: Tensor) -> float:
    """Two pictures whose right person differs: the left half's change as a share of the right half's."""
    left, right = ((a - b).square().mean().sqrt().item() for a, b in zip(halves(first), halves(second)))
    return left / max(right, 1e-9)


def choose_identities(val: data.Portraits, analyzer, views: list[int]) -> list[Identity]:
    """The identities; each reference is the most frontal view that has a face."""
    from facecdm.evaluation.recognisers import InsightFace

    people, recogniser = [], InsightFace.of(analyzer)
    by_identity: dict[str, list[int]] = {}
    for row, label in enumerate(val.labels):
        by_identity.setdefault(label["identity"], []).append(row)
    for rows in by_identity.values():
        rows = sorted(rows, key=lambda row: abs(val.labels[row]["yaw"]))
        reference = next(row for row in rows if val.labels[row]["view"] in views)
        pixels = torch.from_numpy(val.pixels[reference].copy())
        (face,), detected = measure.embeddings(pixels[None], analyzer), recogniser.recognise(pixels.numpy())
        if face is not None and detected is not None:
            prompts = [val.labels[row]["caption"] for row in reversed(rows) if row != reference]
            keypoints = torch.as_tensor(detected.keypoints).float() / SIDE
            people.append(Identity(reference, prompts, face, pixels.float() / 255, keypoints))
    return people


def summary(rows: list[dict]) -> dict:
    found = [row for row in rows if row["face"]]
    return {
        "faces": len(found) / len(rows),
        "own reference best": sum(row["right"] for row in rows) / len(rows),
        "of faces": sum(row["right"] for row in found) / max(len(found), 1),
        "cosine to own": sum(row["own"] for row in found) / max(len(found), 1),
        "cosine to other": sum(row["other"] for row in found) / max(len(found), 1),
    }


def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    open_comfyui(options.comfyui)
    from PIL import Image

    from facecdm.faces.analyzer import open_pack

    analyzer = open_pack([options.models / "insightface"], "buffalo_s")
    val = data.load(options.faceworld, ("val",), SIDE, options.cache)
    people = choose_identities(val, analyzer, options.views)
    centre = torch.stack([identity.face for identity in people]).mean(0)
    chosen = people
    if options.identities:
        chosen = [
            identity
            for name in options.identities
            for identity in people
            if val.labels[identity.reference]["identity"] == name
        ]
    rows: dict[str, list[dict]] = {how: [] for how in ("masks", "everywhere", "base")}
    reaches, shown = [], []
    with torch.inference_mode():
        sampler = PairSampler(options)
        for number in range(options.pairs):
            pair = [chosen[(2 * number + n) % len(chosen)] for n in (0, 1)]
            other = people[(2 * number + 2) % len(people)]
            # A repeated pair gets another prompt each time, other pairs that of the most turned view.
            turn = number if options.identities else 0
            prompts = [identity.prompts[turn % len(identity.prompts)] for identity in pair]
            pictures = {how: sampler.generate(pair, options.seed + number, how, prompts) for how in rows}
            for how, picture in pictures.items():
                rows[how] += score_halves(picture, pair, analyzer, centre)
            if number % 4 == 0:
                swapped = sampler.generate([pair[0], other], options.seed + number, "masks", prompts)
                reaches.append(reach(pictures["masks"], swapped))
            shown.append(torch.cat([pair[0].picture, pictures["masks"], pair[1].picture], 1))
            print(
                number + 1,
                {how: f"{summary(values)['own reference best']:.0%}" for how, values in rows.items()},
                flush=True,
            )
    result = {how: summary(values) for how, values in rows.items()} | {"reach": sum(reaches) / len(reaches)}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1))
    Image.fromarray(to_bytes(shown[:12]).flatten(0, 1).numpy()).save(options.out.with_suffix(".png"))
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
