"""Does the linear identity loss make the prediction depend on the reference sooner?

    python -m research.identity_conditioning --data DATA [--steps 200]

The demo model; DATA is a data set of FaceWorld (docs/demo-model.md). For each weight of `linear_identity` a new adapter
with a LoRA is trained for `steps` steps of 8, from the same seed. Pictures of held-out people are then noised to step t
and predicted in one step with another photo of them, with another person's, and with none. Printed are the prediction's
error over the face as the linear recogniser sees it (1: as wrong as the average face; it is fitted without the held-out
people), how much larger it is with the wrong person, and the plain mean squared error.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

from facecdm.adapter.reference_batch import ReferenceBatch
from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.denoiser import clean_from
from facecdm.training.held_out import choose_held_out, without
from facecdm.training.initialise import new_adapter
from facecdm.training.lora import Lora
from facecdm.training.losses import LinearIdentityLoss, LinearRecogniser
from facecdm.training.losses.diffusion import DiffusionLoss
from facecdm.training.stages import Stage
from facecdm.training.step import Term
from facecdm.training.trainer import Trainer

# Noise levels, and the seed of the noise of each; other seeds change the numbers in docs/losses.md.
LEVELS = {500: 2165500284636583, 700: 25486698815836047, 900: 10527690045131444}


class TrainedPictures:
    """A data set without its held-out pictures, for the linear recogniser."""

    def __init__(self, data: DataSet, hidden: frozenset[int]):
        self.data, self.hidden = data, hidden
        self.buckets = without(data.buckets, hidden)

    def __len__(self) -> int:
        return sum(map(len, self.buckets))

    def __getattr__(self, name: str):
        return getattr(self.data, name)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--weights", type=float, nargs="+", default=[0.0, 0.3, 1.0], help="of the loss")
    add("--steps", type=int, default=200)
    add("--batch", type=int, default=8)
    add("--rate", type=float, default=1e-3)
    add("--lora-layers", default="attention")
    add("--threads", type=int, default=1)
    return parser.parse_args()


def train(
    options: argparse.Namespace,
    denoiser,
    data: DataSet,
    linear: LinearRecogniser,
    hidden: frozenset[int],
    weight: float,
):
    """(adapter, LoRA) after the steps."""
    stage = Stage(
        "broad",
        steps=options.steps,
        batch=options.batch,
        learning_rate=options.rate,
        gate_rate=1.0,
        rank=0,
        train=("projectors", "keys_values", "gates", "lora"),
        lora_rank=32,
        lora_layers=options.lora_layers,
        min_snr=0.0,
        face_region=0.0,
        drop_image=1.0,
        drop_face=0.1,
        noise_low=200,
        noise_share=0.9,
        schedule="linear",
        save_every=10**6,
        validate_every=10**6,
    )
    terms = [Term("diffusion", DiffusionLoss(gamma=0.0))]
    if weight:
        terms.append(Term("linear identity", LinearIdentityLoss(linear), weight))
    adapter = new_adapter(denoiser, data, image_width=0, face_tokens=16, face_rank=256, interplay=False)
    with tempfile.TemporaryDirectory() as folder:
        return Trainer(denoiser, adapter, Lora(), data, stage, terms, Path(folder), hidden).run()


@torch.no_grad()
def errors(denoiser, data: DataSet, linear: LinearRecogniser, hidden: frozenset[int], adapter, lora) -> list[dict]:
    """A row for each noise level."""
    first = {}
    for index in sorted(hidden):
        first.setdefault(data.identity(index), index)
    pictures = list(first.values())
    rows = data.load(pictures)
    own = F.normalize(data.features([data.references(index)[0] for index in pictures], vision=False)[0].float(), dim=1)
    on, found = torch.ones(len(own), dtype=torch.bool), []
    for level, seed in LEVELS.items():
        t = torch.full((len(own),), level)
        a, s = denoiser.signal[t], denoiser.noise[t]
        noise = torch.randn(rows.latents.shape, generator=torch.Generator().manual_seed(seed))
        noisy = a.view(-1, 1, 1, 1) * rows.latents + s.view(-1, 1, 1, 1) * noise
        row = {}
        for name, face, shown in (("right", own, on), ("wrong", own.roll(1, 0), on), ("none", own, ~on)):
            people = ReferenceBatch(face, None, shown, ~on).streams(adapter, rows.prompt.states, s / a, torch.float32)
            with lora.on(denoiser.layers()):
                prediction = denoiser.predict(noisy, t, rows.prompt, people)
            missed = clean_from(prediction, noisy, a, s, denoiser.prediction) - rows.latents
            row[name] = (linear(missed, rows.keypoints).square().sum(1).mean().item(), missed.square().mean().item())
        found.append(row)
    return found


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    denoiser, data = demo_denoiser(), DataSet(options.data)
    hidden = choose_held_out(data, 0.02)
    linear = LinearRecogniser.fit(denoiser, TrainedPictures(data, hidden))
    print(
        "| weight | t | face error, right | no reference | wrong person adds | error, right person | no reference |\n"
        "|---|---|---|---|---|---|---|",
        flush=True,
    )
    for weight in options.weights:
        result = train(options, denoiser, data, linear, hidden, weight)
        for level, row in zip(LEVELS, errors(denoiser, data, linear, hidden, result.adapter, result.lora)):
            print(
                f"| {weight:g} | {level} | {row['right'][0]:.3f} | {row['none'][0]:.3f} | "
                f"{row['wrong'][0] - row['right'][0]:+.3f} | {row['right'][1]:.4f} | {row['none'][1]:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
