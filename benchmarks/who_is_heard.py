"""How soon does the picture depend on whose face is shown? With and without the identity loss for all noise levels.

    python benchmarks/who_is_heard.py --data DATA [--steps 200]

The demo model, DATA a data set of FaceWorld (docs/demo-model.md). For each weight of `linear_identity` a new adapter
with a LoRA learns `steps` steps of 8, from the same seed. Then people who were held out: their pictures are noised to
step t and predicted in one step with another photo of them, with another person's, and with nobody. Printed is the
error of the prediction in the linear picture of the face (1: as wrong as the average face; the linear recogniser is
fitted to all people but those held out), and how much larger it is with the wrong person; and the plain mean squared
error.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent))
from facecdm.adapter.reference_batch import ReferenceBatch  # noqa: E402
from facecdm.hosts.diffusers.denoiser import demo_denoiser  # noqa: E402
from facecdm.training.dataset.data_set import DataSet  # noqa: E402
from facecdm.training.denoiser import clean_from  # noqa: E402
from facecdm.training.held_out import choose_held_out  # noqa: E402
from facecdm.training.initialise import new_adapter  # noqa: E402
from facecdm.training.lora import Lora  # noqa: E402
from facecdm.training.losses import LinearIdentityLoss, LinearRecogniser  # noqa: E402
from facecdm.training.losses.diffusion import DiffusionLoss  # noqa: E402
from facecdm.training.randomness import generator  # noqa: E402
from facecdm.training.stages import Stage  # noqa: E402
from facecdm.training.step import Term  # noqa: E402
from facecdm.training.trainer import Trainer  # noqa: E402

LEVELS = (500, 700, 900)


class Without:
    """A data set without some of its pictures, for the linear recogniser."""

    def __init__(self, data: DataSet, hidden: frozenset[int]):
        self.data, self.hidden = data, hidden
        self.buckets = [[index for index in bucket if index not in hidden] for bucket in data.buckets]

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


def learn(
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
def ask(denoiser, data: DataSet, linear: LinearRecogniser, hidden: frozenset[int], adapter, lora) -> list[dict]:
    """A row for each noise level."""
    first = {}
    for index in sorted(hidden):
        first.setdefault(data.identity(index), index)
    pictures = list(first.values())
    rows = data.load(pictures)
    own = F.normalize(data.features([data.references(index)[0] for index in pictures], vision=False)[0].float(), dim=1)
    on, found = torch.ones(len(own), dtype=torch.bool), []
    for level in LEVELS:
        t = torch.full((len(own),), level)
        a, s = denoiser.signal[t], denoiser.noise[t]
        noise = torch.randn(rows.latents.shape, generator=generator("who is heard", level))
        noisy = a.view(-1, 1, 1, 1) * rows.latents + s.view(-1, 1, 1, 1) * noise
        row = {}
        for name, face, shown in (("right", own, on), ("wrong", own.roll(1, 0), on), ("nobody", own, ~on)):
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
    linear = LinearRecogniser.fit(denoiser, Without(data, hidden))
    print(
        "| weight | t | face missed, right person | nobody | wrong person adds | error, right person | nobody |\n"
        "|---|---|---|---|---|---|---|",
        flush=True,
    )
    for weight in options.weights:
        result = learn(options, denoiser, data, linear, hidden, weight)
        for level, row in zip(LEVELS, ask(denoiser, data, linear, hidden, result.adapter, result.lora)):
            print(
                f"| {weight:g} | {level} | {row['right'][0]:.3f} | {row['nobody'][0]:.3f} | "
                f"{row['wrong'][0] - row['right'][0]:+.3f} | {row['right'][1]:.4f} | {row['nobody'][1]:.4f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
