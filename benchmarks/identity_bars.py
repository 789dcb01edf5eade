"""Identity similarity and prompt adherence of an adapter on the demo model, for FaceWorld's `val` people.

    python benchmarks/identity_bars.py --adapter FILE --faceworld ../shared/faceworld --comfyui DIR --models DIR/models

48 people held out from training. One view of each is the reference, and the prompts are captions of other people;
images are sampled as in a user's graph. Another view of the same person is compared with the result: by InsightFace
(cosines after the mean of other people is subtracted; an image without a face counts 0), and with --dlib by dlib, which
no training used. The same seeds without an adapter show what prompt adherence is lost; --judge (the file that
benchmarks/demo_judge.py writes) adds expression, hair, gender and age. Sharpness is the variance of the Laplacian of
the aligned face.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared import add_sampling, open_comfyui, with_lora_beside  # isort: skip
import demo_judge
from demo_bars import DemoSampler, Judge, save_sheet, to_bytes

from facecdm.demo import data, measure
from facecdm.demo.weights import default_path, read
from facecdm.evaluation.recognisers import Dlib

JUDGED = ("background", "shirt", *demo_judge.JUDGED)
PEOPLE, REFERENCE, OTHER = 48, 0, 1  # identities in val; views: the reference, the compared one
BARS = {"cosine": 0.45, "rank1": 0.90, "dlib_rank1": 0.70, "face": 0.98}
LOCATED = {"cosine": 0.55, "rank1": 0.98, "dlib_rank1": 0.85, "face": 0.98}  # with a pose or a face location
LOST = {"background": 0.03, "shirt": 0.03, "expression": 0.05, "hair_style": 0.05, "hair_colour": 0.05}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--adapter", type=Path, nargs="+", required=True, help="adapters; a LoRA beside one (NAME_lora) is applied")
    add("--weights", type=Path, default=default_path(), help="the demo model's weights")
    add("--faceworld", type=Path, required=True)
    add("--comfyui", type=Path, required=True, help="the ComfyUI folder (main.py in it)")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--prompts", type=int, default=1, help="for each person")
    add("--people", type=int, default=PEOPLE)
    add("--identity", metavar="ID", help="only this person, as val-0009; for an adapter that one_person.py prepared")
    add("--strength", type=float, default=1.0)
    add("--image-strength", type=float, default=0.0, help="of the image stream")
    add("--keep-prompt", type=float, default=0.0)
    add("--pose", action="store_true", help="use the pose ControlNet, with the pose of the prompt's own picture")
    add(
        "--without-location",
        action="store_true",
        help="with --pose: do not condition the adapter on face location",
    )
    add(
        "--with-location",
        action="store_true",
        help="condition the adapter on face location, without a ControlNet",
    )
    add_sampling(parser)
    add("--dlib", action="store_true", help="also compare by dlib: pip install dlib face_recognition_models")
    add("--judge", type=Path, help="judge.pt of benchmarks/demo_judge.py")
    add("--cache", type=Path, default=Path("runs/bench-cache"), help="decoded FaceWorld pictures")
    add("--out", type=Path, default=Path("output/identity_bars.json"), help="results; pictures go beside it")
    add("--threads", type=int, default=0)
    return parser.parse_args()


class People:
    """The val people: their views, and captions of others for each.

    With an `identity` all requests are for that person, who is compared with their last view (see one_person.py).
    """

    def __init__(self, val: data.Portraits, count: int, prompts: int, identity: str | None = None):
        by_person: dict[str, list[int]] = {}
        for row, label in enumerate(val.labels):
            by_person.setdefault(label["identity"], []).append(row)
        views = list(by_person.values())[:count]
        chosen = range(len(views)) if identity is None else [list(by_person).index(identity)]
        self.reference = [rows[REFERENCE] for rows in views]
        self.other = [rows[OTHER if identity is None else -1] for rows in views]
        # A person's prompts are captions of the next people, one of each.
        self.requests = [
            (person, views[(person + 1 + n) % len(views)][2 + n % (len(views[0]) - 2)])
            for n in range(prompts)
            for person in chosen
        ]
        self.labels = [val.labels[row] for _, row in self.requests]

    def prompt(self, val: data.Portraits, index: int) -> str:
        return val.captions[self.requests[index][1]]


def dlib_embeddings(judge: Dlib, pixels: Tensor) -> list[Tensor | None]:
    return [None if (face := judge.recognise(picture)) is None else face.embedding for picture in pixels.numpy()]


def similarity_and_rank(
    shown: list[Tensor | None], people: list[int], gallery: list[Tensor | None], centre: Tensor
) -> tuple[float, float]:
    """Compute (mean cosine to the person's other view, share of images nearest to it).

    An image without a face counts as cosine 0 and not nearest.
    """
    known = torch.stack([torch.zeros_like(centre) if face is None else _centred(face, centre) for face in gallery])
    cosines, right = [], []
    for face, person in zip(shown, people):
        scores = known @ _centred(face, centre) if face is not None else torch.zeros(len(known))
        cosines.append(float(scores[person]))
        right.append(face is not None and int(scores.argmax()) == person)
    return float(np.mean(cosines)), float(np.mean(right))


def _centred(face: Tensor, centre: Tensor) -> Tensor:
    return torch.nn.functional.normalize(face - centre, dim=0)


def generate(sampler: DemoSampler, people: People, val: data.Portraits, adapter, arguments) -> Tensor:
    """Generate every requested image, with its person if an adapter is given."""
    from tqdm import tqdm

    from facecdm.adapter.person import Person, Stream
    from facecdm.hosts.comfy.sampling.apply import apply_person

    plain, pictures = sampler.demo.model, []
    hints, keypoints = poses(people, arguments) if arguments.pose or arguments.with_location else (None, None)
    for index, (person, _) in enumerate(tqdm(people.requests, mininterval=5)):
        if adapter is not None:
            image = None
            if arguments.image_strength:
                row = torch.from_numpy(np.array(val.pixels[people.reference[person]]))
                image = sampler.demo.clip_vision.encode_image(row[None].float() / 255).penultimate_hidden_states
            shown = Person(
                adapter,
                arguments.faces[person][None],
                image,
                {
                    "face": Stream(arguments.strength, kappa=arguments.keep_prompt),
                    "image": Stream(arguments.image_strength),
                },
                keypoints=None if keypoints is None or arguments.without_location else keypoints[index][None],
            )
            sampler.demo = replace(sampler.demo, model=apply_person(plain, shown))
        more = controlled(hints[index]) if arguments.pose else None
        pictures.append(sampler.generate([people.prompt(val, index)], arguments.seed + index, more))
        sampler.demo = replace(sampler.demo, model=plain)
    return to_bytes(torch.cat(pictures))


def poses(people: People, arguments: argparse.Namespace) -> tuple[Tensor, Tensor]:
    """Pose drawings [A, 3, H, W] and face key points [A, 5, 2] of the pictures whose captions are the prompts."""
    from pose_bars import val_pictures

    from facecdm.faces.analyzer import open_pack
    from facecdm.pose.extract import Drawing, FaceDetector, extract
    from facecdm.pose.location import face_keypoints

    detector = FaceDetector(open_pack([arguments.models / "insightface"], "buffalo_s", landmarks=True))
    found = extract(detector, val_pictures(arguments.faceworld, people.labels), "largest").poses
    drawn = torch.from_numpy(np.stack([Drawing()(pose) for pose in found])).movedim(-1, 1).float() / 255
    return drawn, face_keypoints(found)[0]


def controlled(hint: Tensor) -> dict:
    from facecdm.hosts.comfy.demo import pose as comfy_demo_pose

    return {"control": comfy_demo_pose.load().set_cond_hint(hint[None], 1.0), "control_apply_to_uncond": False}


def mean_sharpness(pixels: Tensor, analyzer) -> float:
    """Mean over the detected faces."""
    from facecdm.evaluation.measures import sharpness
    from facecdm.evaluation.recognisers import InsightFace

    recogniser, found = InsightFace.of(analyzer), []
    for picture in pixels.numpy():
        if (face := recogniser.recognise(picture)) is not None:
            found.append(sharpness(picture, face.keypoints))
    return float(np.mean(found)) if found else 0.0


def run(arguments: argparse.Namespace) -> list[dict]:
    from facecdm.adapter.native import load_adapter
    from facecdm.faces.analyzer import open_pack

    analyzer = open_pack([arguments.models / "insightface"], "buffalo_s")
    weights = read(arguments.weights)
    val, train = (
        data.load(arguments.faceworld, (split,), weights.sizes.image_size, arguments.cache)
        for split in ("val", "train")
    )
    attributes = demo_judge.load(arguments.judge) if arguments.judge else None
    judge, people = (
        Judge.fit(train, analyzer, attributes),
        People(val, arguments.people, arguments.prompts, arguments.identity),
    )
    views = {
        name: torch.from_numpy(np.array(val.pixels[rows]))
        for name, rows in (("reference", people.reference), ("other", people.other))
    }
    embeddings = {name: measure.embeddings(pixels, analyzer) for name, pixels in views.items()}
    arguments.faces = torch.stack(embeddings["reference"])
    dlib = Dlib() if arguments.dlib else None
    gallery = {"": (embeddings["other"], judge.centre)}
    if dlib is not None:
        others = torch.from_numpy(np.array(train.pixels[np.linspace(0, len(train) - 1, 100).astype(int)]))
        known = dlib_embeddings(dlib, others)
        centre = torch.stack([face for face in known if face is not None]).mean(0)
        gallery["dlib_"] = (dlib_embeddings(dlib, views["other"]), centre)
    requests = [person for person, _ in people.requests]
    sampler = DemoSampler(weights, arguments)
    base, rows = sampler.demo.model, []

    def score(what: str, pixels: Tensor, owners: list[int], labels: list[dict] | None) -> None:
        row = {"what": what}
        for name, (known, centre) in gallery.items():
            shown = dlib_embeddings(dlib, pixels) if name else measure.embeddings(pixels, analyzer)
            row[f"{name}cosine"], row[f"{name}rank1"] = similarity_and_rank(shown, owners, known, centre)
            if not name:
                row["face"] = float(np.mean([face is not None for face in shown]))
        row["sharpness"] = mean_sharpness(pixels, analyzer)
        if labels is not None:
            scores = judge.score(pixels, labels)
            row |= {name: scores[name] for name in JUDGED if name in scores}
        rows.append(row)
        print(json.dumps(row), flush=True)

    score("real reference views", views["reference"], list(range(len(people.reference))), None)
    plain = generate(sampler, people, val, None, arguments)
    score("no identity", plain, requests, people.labels)
    stems = [path.stem for path in arguments.adapter]
    for path in arguments.adapter:
        sampler.demo = replace(sampler.demo, model=with_lora_beside(base, path))
        generated = generate(sampler, people, val, load_adapter(path), arguments)
        sampler.demo = replace(sampler.demo, model=base)
        name = path.stem if stems.count(path.stem) == 1 else f"{path.parent.name}-{path.stem}"
        score(name, generated, requests, people.labels)
        lines = [views["reference"][requests], plain, generated]
        sheet = torch.stack(lines, 1)[:30].flatten(0, 1)  # reference, without, with
        save_sheet(sheet, arguments.out.with_name(f"{name}.png"), columns=15)
    return rows


def missed(row: dict, plain: dict, targets: dict[str, float]) -> list[str]:
    """The targets that an adapter's row misses: its own, and what it may lose against the row without identity."""
    low = [name for name, target in targets.items() if row.get(name, target) < target]
    return low + [name for name, most in LOST.items() if name in row and plain[name] - row[name] > most + 1e-9]


def table(rows: list[dict]) -> str:
    columns = [
        name
        for name in ("cosine", "rank1", "dlib_cosine", "dlib_rank1", "face", *JUDGED, "sharpness")
        if any(name in row for row in rows)
    ]
    lines = ["| | " + " | ".join(columns) + " |", "|" + "---|" * (len(columns) + 1)]
    for row in rows:
        lines.append(
            f"| {row['what']} | "
            + " | ".join(
                "–"
                if name not in row
                else f"{row[name]:.3f}"
                if "cosine" in name
                else f"{row[name]:.1f}"
                if name == "sharpness"
                else f"{row[name]:.1%}"
                for name in columns
            )
            + " |"
        )
    return "\n".join(lines)


def main() -> int:
    arguments = parse()
    open_comfyui(arguments.comfyui)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        rows = run(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.faces = None
    settings = {name: str(value) for name, value in vars(arguments).items() if name != "faces"}
    targets = LOCATED if arguments.pose or arguments.with_location else BARS
    bars = targets | {"lost": LOST}
    arguments.out.write_text(json.dumps({"settings": settings, "bars": bars, "rows": rows}, indent=1))
    print("\n" + table(rows) + f"\n\nBars: {bars}")
    for row in rows[2:]:
        print(f"{row['what']} misses: {', '.join(missed(row, rows[1], targets)) or 'nothing'}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
