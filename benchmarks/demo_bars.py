"""Prompt adherence and image quality of the demo model, on FaceWorld's `val` captions.

    python benchmarks/demo_bars.py --faceworld ../shared/faceworld --comfyui DIR --models DIR/models

The pictures are generated as in a user's graph (ComfyUI's MODEL, CLIP, VAE and samplers) and measured by
facecdm.demo.measure: face found, colours, sharpness of the aligned face (variance of the Laplacian). --judge takes the
file that benchmarks/demo_judge.py writes. It adds expression, hair, gender and age as in the prompt (a picture without
a face counts as wrong), and precision and recall in the judge's features against as many pictures of `train` and
`wide`. The same measures are computed on the real `val` pictures, which shows how reliable they are. Several --weights
files, such as one for each checkpoint, give a curve.
"""

import argparse
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from shared import add_sampling, open_comfyui  # isort: skip
import demo_judge

from facecdm.demo import data, measure
from facecdm.demo.weights import default_path, read

BARS = {
    "face": 0.98,
    "background": 0.95,
    "shirt": 0.95,
    "precision": 0.8,
    "recall": 0.5,
    "identity": 0.95,
    "seconds": 5.0,
    "measure": 0.95,  # real pictures must reach this; otherwise the measure is unreliable
}
POINTS_LOST = 0.05  # how far an attribute's score may be below that of real pictures
SHARPNESS_OFF = 0.25  # how far the median sharpness may be from that of real pictures, as a share
BATCH = 10
PEOPLE = 48  # identities in val


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--comfyui", type=Path, required=True, help="the ComfyUI folder (main.py in it)")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--weights", type=Path, nargs="*", help="weights files (default: the one in the package)")
    add("--judge", type=Path, help="judge.pt of benchmarks/demo_judge.py; without it no attributes are judged")
    add("--captions", type=int, default=200)
    add_sampling(parser)
    add("--cache", type=Path, default=Path("runs/bench-cache"), help="decoded FaceWorld pictures")
    add("--out", type=Path, default=Path("output/demo_bars.json"), help="results; pictures go beside it")
    add("--threads", type=int, default=0)
    return parser.parse_args()


@dataclass(frozen=True)
class Judge:
    background: measure.ColourNamer
    shirt: measure.ColourNamer
    analyzer: object
    centre: Tensor  # the mean embedding of people of `train`
    attributes: demo_judge.Judge | None = None
    known: Tensor | None = None  # [N, F] features of real pictures, for precision and recall

    @classmethod
    def fit(
        cls, train: data.Portraits, analyzer, attributes: demo_judge.Judge | None = None, known: int = 0
    ) -> "Judge":
        """`known` is how many pictures of `train` stand for the real ones in precision and recall; 0: neither."""
        others = torch.from_numpy(np.array(train.pixels[spread(len(train), 100)]))
        found = [face for face in measure.embeddings(others, analyzer) if face is not None]
        features = None
        if attributes is not None and known:
            crops, _ = demo_judge.crops_of(np.array(train.pixels[spread(len(train), known)]), analyzer)
            features = attributes.describe(crops)
        background, shirt = measure.background_namer(train), measure.shirt_namer(train)
        return cls(background, shirt, analyzer, torch.stack(found).mean(0), attributes, features)

    def score(self, pixels: Tensor, labels: list[dict]) -> dict[str, float]:
        """uint8 [B, S, S, 3] and the labels whose captions they were made from."""
        row = asdict(measure.prompt_adherence(pixels, labels, self.background, self.shirt, self.analyzer))
        row["sharpness"] = self.sharpness(pixels)
        return row if self.attributes is None else row | self.attribute_scores(pixels, labels)

    def attribute_scores(self, pixels: Tensor, labels: list[dict]) -> dict[str, float]:
        crops, found = demo_judge.crops_of(pixels.numpy(), self.analyzer)
        named = self.attributes.name(crops)
        named = {
            name: [value if has_face else "" for value, has_face in zip(named[name], found)]
            for name in demo_judge.JUDGED
        }
        row = {name: demo_judge.share(named[name], labels, name) for name in demo_judge.JUDGED}
        if self.known is None:
            return row
        features = self.attributes.describe({view: value[torch.tensor(found)] for view, value in crops.items()})
        precision, recall = measure.precision_recall(self.known, features) if len(features) > 3 else (0.0, 0.0)
        return row | {"precision": precision * float(np.mean(found)), "recall": recall}

    def sharpness(self, pixels: Tensor) -> float:
        """The median of the pictures in which a face is found."""
        from facecdm.evaluation.measures import sharpness
        from facecdm.faces.search import search

        values = []
        for picture in pixels.numpy():
            faces = search(self.analyzer, np.ascontiguousarray(picture[..., ::-1]), max(picture.shape), 0.5, True)
            values += [sharpness(picture, faces[0].keypoints)] if faces else []
        return float(np.median(values)) if values else 0.0

    def identity(self, originals: Tensor, reconstructions: Tensor) -> float:
        found = [measure.embeddings(pixels, self.analyzer) for pixels in (originals, reconstructions)]
        return float(np.mean(measure.identity_kept(*found, self.centre)))


def spread(of: int, count: int) -> list[int]:
    return np.linspace(0, of - 1, min(of, count)).astype(int).tolist()


def to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)


class DemoSampler:
    """Generates pictures [B, S, S, 3] in 0…1 by ComfyUI's sampling."""

    def __init__(self, weights, arguments: argparse.Namespace):
        from facecdm.hosts.comfy.demo import model as comfy_demo
        from facecdm.hosts.comfy.demo.guidance import guided

        demo = comfy_demo.build(weights)
        self.demo = replace(demo, model=guided(demo.model, arguments.attention_guidance))
        self.size, self.how = weights.sizes.image_size, arguments

    def generate(self, captions: list[str], seed: int, more: dict | None = None) -> Tensor:
        """Generate a picture per caption; `more` is added to both prompts' options, for example a ControlNet."""
        import comfy.sample

        how, model = self.how, self.demo.model
        positive, negative = self._encode(captions, more), self._encode([""], more)
        empty = torch.zeros(len(captions), 4, self.size // 8, self.size // 8)
        latent = comfy.sample.fix_empty_latent_channels(model, empty)
        noise = comfy.sample.prepare_noise(latent, seed)
        samples = comfy.sample.sample(
            model,
            noise,
            how.steps,
            how.cfg,
            how.sampler,
            how.scheduler,
            positive,
            negative,
            latent,
            seed=seed,
            disable_pbar=True,
        )
        return self.demo.vae.decode(samples)

    def _encode(self, captions: list[str], more: dict | None) -> list:
        clip = self.demo.clip
        states = [clip.encode_from_tokens(clip.tokenize(caption)) for caption in captions]
        return [[torch.cat(states), dict(more or {})]]

    def generate_all(self, captions: list[str]) -> Tensor:
        batches = range(0, len(captions), BATCH)
        return torch.cat([self.generate(captions[n : n + BATCH], self.how.seed + n) for n in batches])

    def seconds(self) -> float:
        """Seconds from prompt to pixels of one picture; the lowest of three, since the machine may be busy."""
        caption = "a young woman, long red hair, smiling, green shirt, plain blue background"
        times = []
        for seed in range(3):
            started = time.perf_counter()
            self.generate([caption], seed)
            times.append(time.perf_counter() - started)
        return min(times)

    def retrieval(self, pixels: Tensor, captions: list[str]) -> float:
        """The share of pictures whose own caption has the nearest embedding to the picture's, of all captions."""
        images = self.demo.clip_vision.encode_image(pixels.float() / 255).image_embeds.float()
        clip = self.demo.clip
        texts = torch.cat([clip.encode_from_tokens(clip.tokenize(c), return_pooled=True)[1] for c in captions])
        nearest = torch.nn.functional.cosine_similarity(images[:, None], texts[None].float(), dim=2).argmax(1).tolist()
        return float(np.mean([captions[found] == caption for found, caption in zip(nearest, captions, strict=True)]))

    def reconstruct(self, pixels: Tensor) -> Tensor:
        return self.demo.vae.decode(self.demo.vae.encode(pixels.float() / 255))


def run(arguments: argparse.Namespace) -> list[dict]:
    from facecdm.faces.analyzer import open_pack

    analyzer = open_pack([arguments.models / "insightface"], "buffalo_s")
    attributes = demo_judge.load(arguments.judge) if arguments.judge else None
    rows, judge, judged_size = [], None, None
    for path in arguments.weights or [default_path()]:
        weights = read(path)
        if judged_size != weights.sizes.image_size:
            judged_size = weights.sizes.image_size
            val = data.load(arguments.faceworld, ("val",), judged_size, arguments.cache)
            train = data.load(arguments.faceworld, ("train", "wide"), judged_size, arguments.cache)
            judge = Judge.fit(train, analyzer, attributes, arguments.captions)
            chosen = spread(len(val), arguments.captions)
            people = list(range(0, len(val), len(val) // PEOPLE))
            real, labels = torch.from_numpy(np.array(val.pixels[chosen])), [val.labels[row] for row in chosen]
            rows.append({"what": f"real val pictures, {judged_size} px", **judge.score(real, labels)})
            report(rows[-1])
        sampler = DemoSampler(weights, arguments)
        generated = to_bytes(sampler.generate_all([label["caption"] for label in labels]))
        save_sheet(generated[:40], arguments.out.with_name(f"{path.stem}.png"))
        # A row of generated pictures, then the real ones with the same captions, and so on.
        beside = [line for pair in zip(generated[:16].split(4), real[:16].split(4)) for line in pair]
        save_sheet(torch.cat(beside), arguments.out.with_name(f"{path.stem}-beside-real.png"), columns=4)
        rows.append(
            {
                "what": f"{path.stem}, U-Net step {weights.steps['unet']}",
                "steps_trained": weights.steps,
                **judge.score(generated, labels),
                "seconds": sampler.seconds(),
                "identity": judge.identity(real[:96], to_bytes(sampler.reconstruct(real[:96]))),
                "retrieval": sampler.retrieval(
                    torch.from_numpy(np.array(val.pixels[people])), [val.captions[row] for row in people]
                ),
            }
        )
        report(rows[-1])
    return rows


def save_sheet(pixels: Tensor, path: Path, columns: int = 10) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = pixels[: len(pixels) // columns * columns or len(pixels)]
    lines = [torch.cat(list(line), 1) for line in pixels.split(columns)]
    Image.fromarray(torch.cat(lines).numpy()).save(path)


COLUMNS = {
    "face": "face found",
    "background": "background right",
    "shirt": "plain shirt right",
    "expression": "expression",
    "hair_style": "hair style",
    "hair_colour": "hair colour",
    "gender": "gender",
    "age": "age",
    "sharpness": "sharpness",
    "precision": "precision",
    "recall": "recall",
    "identity": "autoencoder identity",
    "retrieval": "caption of 48 found",
    "seconds": "seconds a picture",
}
NUMBERS = ("sharpness", "precision", "recall", "identity", "seconds")  # the others are shares


def bars(real: dict) -> dict[str, float]:
    """The target of every column; some depend on the scores of real pictures."""
    relative = {name: real[name] - POINTS_LOST for name in demo_judge.JUDGED if name in real}
    return BARS | relative | {"sharpness": (1 - SHARPNESS_OFF) * real["sharpness"]}


def missed(row: dict, real: dict) -> list[str]:
    """The targets that a row misses. Too sharp is a miss, too."""
    targets = bars(real)
    highest = {"seconds": targets.pop("seconds"), "sharpness": (1 + SHARPNESS_OFF) * real["sharpness"]}
    low = [name for name, target in targets.items() if row.get(name, target) < target]
    return low + [name for name, most in highest.items() if row.get(name, most) > most]


def table(rows: list[dict]) -> str:
    shown = [name for name in COLUMNS if any(name in row for row in rows)]
    lines = ["| | " + " | ".join(COLUMNS[name] for name in shown) + " |", "|" + "---|" * (len(shown) + 1)]
    for row in [*rows, {"what": "bar", **bars(rows[0])}]:
        lines.append(f"| {row['what']} | " + " | ".join(show(name, row.get(name)) for name in shown) + " |")
    return "\n".join(lines)


def show(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if name in NUMBERS else f"{value:.1%}"


def report(row: dict) -> None:
    print(", ".join(f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def main() -> int:
    arguments = parse()
    open_comfyui(arguments.comfyui)
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    with torch.inference_mode():
        rows = run(arguments)
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in vars(arguments).items()}
    arguments.out.write_text(json.dumps({"settings": settings, "bars": bars(rows[0]), "rows": rows}, indent=1))
    print("\n" + table(rows))
    real = rows[0]
    for row in rows[1:]:
        print(f"{row['what']} misses: {', '.join(missed(row, real)) or 'nothing'}")
    if min(real["face"], real["background"], real["shirt"]) < BARS["measure"]:
        print("\nThe measures fail on real pictures, so these numbers are unreliable.")
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
