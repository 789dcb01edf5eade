"""The ablation in seconds: lab.py's U-Net and data, a recogniser of mean colours, two people.

`ablation_lab.py FOLDER STEPS IMAGES` runs it and kills this process at that training step or image.
"""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).parents[2]
sys.path += [str(ROOT), str(Path(__file__).parent)]
from lab import CONTEXT, VISION, WIDTH, TinySource, tiny_denoiser  # noqa: E402

from facecdm.evaluation.evaluate import Evaluator  # noqa: E402
from facecdm.evaluation.pictures import cached_opener  # noqa: E402
from facecdm.evaluation.recognisers import RecognisedFace  # noqa: E402
from facecdm.training.config import Config  # noqa: E402
from facecdm.training.rows import Prompt  # noqa: E402
from facecdm.training.trainer import Trainer  # noqa: E402
from research.ablation import sampling  # noqa: E402
from research.ablation.bases import Bases  # noqa: E402
from research.ablation.earlier import Earlier  # noqa: E402
from research.ablation.experiment import Experiment, available, jobs  # noqa: E402
from research.ablation.people import EvaluationSet, Request  # noqa: E402
from research.ablation.sampling import ImageSampler  # noqa: E402
from research.ablation.scoring import CachedRecogniser, Scorer  # noqa: E402
from research.ablation.training import Lab  # noqa: E402

ARMS = ["FaceID's design", "triplet"]
STEPS = 8  # of each training
PROMPTS = 2  # of each person
RECIPE = Config(
    data=Path("."),
    out=Path("."),
    sizes={"face_tokens": 2, "face_rank": 8, "image_tokens": 2, "image_layers": 1},
    all={
        "batch": 4,
        "rank": 0,
        "save_every": 1,
        "identity": 0.0,
        "lora_rank": 2,
        "learning_rate": 3e-2,
        "gate_rate": 1.0,
    },
    stages={"broad": {"steps": 4}, "identity": {"steps": 2, "location_steps": 0}, "fine": {"steps": 2}},
)


class Data(TinySource):
    face_width, vision_width = WIDTH, VISION
    mean_face = torch.zeros(WIDTH)


class Colours:
    """Stands in for a recogniser: sixteen mean colours. It finds no face in a third of the sampled pictures."""

    name = "colours"

    def recognise(self, picture: np.ndarray) -> RecognisedFace | None:
        if picture.sum(dtype=int) % 3 == 2:
            return None
        side = picture.shape[0] // 4 * 4
        means = picture[:side, :side].reshape(4, side // 4, 4, side // 4, 3).mean((1, 3))
        return RecognisedFace(torch.nn.functional.normalize(torch.from_numpy(means).flatten().float() - 100, dim=0))


class Brightness:
    """Stands in for a judge: a picture is bright or dark."""

    def read(self, picture: np.ndarray, keypoints: np.ndarray | None) -> dict[str, str]:
        return {"light": "bright" if picture.mean() > 127 else "dark"}


ASKED = "light: bright / dark"


def make_lab(folder: Path) -> Lab:
    return Lab(Bases(tiny_denoiser()), Data(), RECIPE, folder)


def experiment(folder: Path, arms: list[str] = ARMS, known: Earlier | None = None, seeds: int = 1) -> Experiment:
    views = [sorted((ROOT / "tests" / "assets" / person).glob("*.webp")) for person in ("0005", "0006")]
    rng = torch.Generator().manual_seed(5)
    evaluation_set = EvaluationSet(
        ["five", "six"],
        [view[0] for view in views],
        [view[1] for view in views],
        [view[2] for view in views],
        torch.nn.functional.normalize(torch.randn(2, WIDTH, generator=rng), dim=1),
        torch.randn(2, 5, VISION, generator=rng),
        [Request(number % 2, str(number), 0.0, ASKED) for number in range(PROMPTS * 2)],
        Prompt(torch.randn(PROMPTS * 2, 7, CONTEXT, generator=rng)),
        Prompt(torch.zeros(1, 7, CONTEXT)),
    )
    lab = make_lab(folder)
    evaluator = Evaluator(
        [CachedRecogniser(Colours(), folder / "recognised.jsonl")],
        cached_opener(),
        judge=Brightness(),
    )
    names, left_out = available(arms, pose=False)
    return Experiment(
        lab,
        ImageSampler(lab.bases, evaluation_set, (4, 8, 8), folder / "pictures", 4, 4.0, 1),
        Scorer(evaluator, evaluation_set),
        folder,
        jobs(names, seeds, [0.5]),
        {},
        [job.condition for job in jobs(available(None, pose=False)[0], seeds, [0.5])],
        left_out,
        known or Earlier(),
    )


def die_at(steps: int, generated: int) -> None:
    """Kill this process, as by a power cut, at that training step or image."""
    left = {"steps": steps, "generated": generated}

    def counted(name, call):
        def wrapped(*given, **named):
            left[name] -= 1
            if left[name] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*given, **named)

        return wrapped

    Trainer._train_step = counted("steps", Trainer._train_step)
    sampling.sample = counted("generated", sampling.sample)


if __name__ == "__main__":
    torch.set_num_threads(1)
    die_at(int(sys.argv[2]), int(sys.argv[3]))
    experiment(Path(sys.argv[1])).run()
    sys.exit("it was not killed")
