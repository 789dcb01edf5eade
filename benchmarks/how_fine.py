"""How many places of a face must its tokens be? What a straight line can say of a face, by their number.

    python benchmarks/how_fine.py --data DATA [--sides 6 8 12 16]

The demo model, DATA a data set of FaceWorld (docs/demo-model.md). Windows around people's faces are noised to step t
and predicted by the base model alone. What it misses is fitted, place by place, by one linear map of what the face
tokens of a new adapter say there, being told where the face is; before any training. On people who were not fitted: the
error in the linear picture of the face (1: as wrong as the average face) with another photo of the person, and how much
larger it is with another person's.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

sys.path.append(str(Path(__file__).resolve().parent.parent))
from facecdm.hosts.diffusers_training import demo_denoiser  # noqa: E402
from facecdm.training.begin import new_adapter  # noqa: E402
from facecdm.training.dataset.data_set import DataSet  # noqa: E402
from facecdm.training.denoiser import clean_from  # noqa: E402
from facecdm.training.draws import draw  # noqa: E402
from facecdm.training.losses import LinearRecogniser  # noqa: E402
from facecdm.training.losses.linear import ridge  # noqa: E402
from facecdm.training.stages import Stage  # noqa: E402
from facecdm.training.step import where_faces_are  # noqa: E402
from facecdm.training.window import windowed  # noqa: E402

JUDGED, FITTED, VIEWS, BATCH = 128, 600, 3, 64  # of the judged, whole batches
WINDOWS = Stage("broad", face_window=1.0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--sides", type=int, nargs="+", default=[6, 8, 12, 16])
    add("--rank", type=int, default=128)
    add("--levels", type=int, nargs="+", default=[700, 850])
    add("--threads", type=int, default=0)
    return parser.parse_args()


def look(denoiser, data: DataSet, adapter, pictures: list[int], level: int):
    """Batch by batch: said with the right and with a wrong person [B, n, C + 1], missed [B, n, c], key points."""
    for start in range(0, len(pictures), BATCH):
        chosen = pictures[start:start + BATCH]
        draws = draw(WINDOWS, start, level, (len(chosen), *data.latent_shape(0)))
        rows, draws = windowed(data.load(chosen), draws)
        t = torch.full((len(chosen),), level)
        signal, noise = denoiser.signal[t], denoiser.noise[t]
        noisy = signal.view(-1, 1, 1, 1) * rows.latents + noise.view(-1, 1, 1, 1) * draws.epsilon
        clean = clean_from(denoiser.predict(noisy, t, rows.prompt, None), noisy, signal, noise, denoiser.prediction)
        shown = data.features([(data.references(picture) or [picture])[0] for picture in chosen], vision=False)[0]
        tokens = adapter.face_projector(F.normalize(shown.float(), dim=1))
        scores, inside = where_faces_are(rows, adapter.config)(rows.latents[0, 0].numel())
        said = [torch.cat([scores.softmax(-1) @ some * inside, inside], -1) for some in (tokens, tokens.roll(VIEWS, 0))]
        yield *said, (rows.latents - clean).flatten(2).transpose(1, 2), rows.keypoints


def missed(linear: LinearRecogniser, error: Tensor, keypoints: Tensor) -> float:
    """The mean over a batch of what `error` [B, n, c] of a square of places is in the linear picture of the face."""
    side = round(error.shape[1] ** 0.5)
    return linear(error.transpose(1, 2).unflatten(2, (side, side)), keypoints).square().sum(1).mean().item()


@torch.inference_mode()
def main() -> None:
    options = parse()
    if options.threads:
        torch.set_num_threads(options.threads)
    denoiser, data = demo_denoiser(), DataSet(options.data)
    linear = LinearRecogniser.fit(denoiser, data)
    people = list(data.people.values())
    fitted = [picture for person in people[:-JUDGED:max(len(people) // FITTED, 1)] for picture in person[:VIEWS]]
    judged = [picture for person in people[-JUDGED:] for picture in person[:VIEWS]]
    print("| tokens | t | missed by the base | right person | wrong person adds |\n|---|---|---|---|---|", flush=True)
    for side in options.sides:
        adapter = new_adapter(denoiser, data, face_tokens=side**2, face_rank=options.rank, image_width=0)
        for level in options.levels:
            said, _, errors, _ = zip(*look(denoiser, data, adapter, fitted, level))
            line = ridge(torch.cat(said).flatten(0, 1), torch.cat(errors).flatten(0, 1), 1e-3)
            found = torch.tensor([[missed(linear, left, keypoints) for left in
                                   (error, error - F.linear(own, line), error - F.linear(another, line))]
                                  for own, another, error, keypoints in look(denoiser, data, adapter, judged, level)])
            base, right, wrong = found.mean(0).tolist()
            print(f"| {side} × {side} | {level} | {base:.3f} | {right:.3f} | {wrong - right:+.3f} |", flush=True)


if __name__ == "__main__":
    main()
