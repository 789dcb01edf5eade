"""Run the ablation: trainings that differ in one thing, scored in the same way.

    python -m research.ablation --faceworld FACEWORLD --data DATA --comfyui DIR --models DIR/models \\
        --write docs/results.md

DATA is a data set that `python -m facecdm dataset` made from FaceWorld (docs/results.md). Each arm is trained on the
demo model (FACECDM_DEMO_WEIGHTS names other weights), samples the same people with the same prompts and noise, and is
scored by InsightFace and by dlib, which no training used. Everything is in --out: a run that was stopped or killed
continues, and results.md, tables/, results.json, strength.png, sheet.jpg and report/ are rewritten after each arm.
Small, for a CPU: --steps 60 --batch 4 --people 12 --prompts 1 --seeds 1 --arms …
--small-flux takes the base model of research.small_flux, a DiT, which is sampled without a pose ControlNet.
"""

import argparse
import hashlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from facecdm.demo.paths import POSE_CONTROLNET
from facecdm.demo.weights import DemoWeights, read
from facecdm.errors import FaceCDMError
from facecdm.training.dataset.demo import DemoEncoders
from facecdm.training.denoiser import Denoiser

from .arms import ARMS, STRENGTHS, arm
from .experiment import Experiment, available, jobs

HERE = Path(__file__).resolve().parent
PACK, RECOGNISER = "buffalo_s", "insightface/models/buffalo_s/w600k_mbf.onnx"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--data", type=Path, required=True, help="the data set that is trained on")
    add("--comfyui", type=Path, required=True, help="the ComfyUI folder, for its tokenizer")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add(
        "--pose",
        type=Path,
        default=POSE_CONTROLNET,
        help="the demo's pose ControlNet, used by all arms but two",
    )
    add("--small-flux", type=Path, metavar="RUN", help="the base model is the small Flux that was trained there")
    add("--recipe", type=Path, default=HERE / "recipe.yaml", help="a training configuration; the arms change it")
    add(
        "--given",
        nargs="+",
        default=[],
        metavar="ARM=FILE",
        help="existing adapters instead of an arm's first training (a LoRA beside one is applied)",
    )
    add("--arms", nargs="+", help=f"some of: {', '.join(one.name for one in ARMS)} (default: all)")
    add("--seeds", type=int, default=3, help="trainings of each headline arm")
    add("--steps", type=int, default=0, help="of each training, all stages together; 0: the recipe's")
    add("--batch", type=int, default=0, help="pictures per step; 0: the recipe's")
    add("--people", type=int, default=48)
    add("--prompts", type=int, default=4, help="for each person")
    add(
        "--leave-out",
        nargs="*",
        default=[],
        help="val people who are not used; 0009 0014 are in the demo's adapter",
    )
    add("--strengths", type=float, nargs="*", default=list(STRENGTHS), help="of the curve")
    add("--sampling-steps", type=int, default=20)
    add("--sampling-batch", "--draw-batch", type=int, default=8, help="images sampled at once")
    add("--cfg", type=float, default=4.0)
    add("--no-dlib", action="store_true", help="without the second recogniser (pip install facecdm[evaluation])")
    add("--cache", type=Path, default=Path("runs/bench-cache"), help="decoded FaceWorld pictures")
    add("--out", type=Path, default=Path("runs/ablation"))
    add("--write", type=Path, help="a Markdown file whose marked part is replaced by the results")
    add("--device", help="default: the GPU where there is one")
    add("--threads", type=int, default=0)
    return parser.parse_args(arguments)


def read_recipe(arguments: argparse.Namespace):
    import yaml

    from facecdm.training.config import Config

    values = yaml.safe_load(arguments.recipe.read_text(encoding="utf-8"))
    return Config.model_validate(
        {
            **values,
            "data": arguments.data,
            "out": arguments.out,
            "adapter": None,
            "recogniser": arguments.models / RECOGNISER,
        }
    )


@dataclass(frozen=True, eq=False)
class Base:
    """The base model of all arms.

    control  file of its pose ControlNet, or None
    located  whether adapters are conditioned on face location
    """

    denoiser: Denoiser
    encoders: DemoEncoders
    control: Path | None
    located: bool


def open_base(arguments: argparse.Namespace, weights: DemoWeights, device: str) -> Base:
    """The demo model, or the small Flux on its latents."""
    from facecdm.hosts.diffusers.denoiser import demo_denoiser

    tokenizer = arguments.comfyui / "comfy" / "sd1_tokenizer"
    if arguments.small_flux is not None:
        from ..small_flux.denoiser import open_denoiser
        from ..small_flux.encoders import FluxEncoders

        return Base(open_denoiser(arguments.small_flux, weights), FluxEncoders(tokenizer, weights), None, True)
    pose = arguments.pose if arguments.pose.is_file() else None
    return Base(demo_denoiser(weights, device, pose), DemoEncoders(tokenizer, weights), pose, pose is not None)


def open_all(arguments: argparse.Namespace) -> Experiment:
    from facecdm.demo import data
    from facecdm.evaluation.evaluate import Evaluator
    from facecdm.evaluation.pictures import cached_opener
    from facecdm.evaluation.recognisers import Dlib, InsightFace
    from facecdm.faces.analyzer import open_pack
    from facecdm.training.dataset.data_set import DataSet

    from . import people
    from .conditioning import open_probe
    from .sampling import ImageSampler
    from .scoring import CachedRecogniser, Scorer
    from .training import Lab

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    packs, weights = [arguments.models / "insightface"], read()
    base = open_base(arguments, weights, device)
    denoiser, encoders, size = base.denoiser, base.encoders, weights.sizes.image_size
    side = size // weights.sizes.downscale
    names, left_out = available(arguments.arms, base.control is not None)
    analyzer, data_set = open_pack(packs, PACK), DataSet(arguments.data)
    if analyzer.recogniser != data_set.recogniser:
        raise FaceCDMError(
            f"{arguments.data} was embedded by {data_set.recogniser}, and {PACK} has "
            f"{analyzer.recogniser}: prepare it with {PACK}"
        )
    evaluation_set = people.choose_evaluation_set(
        arguments.faceworld,
        arguments.cache,
        arguments.out / "people",
        analyzer,
        encoders,
        arguments.people,
        arguments.prompts,
        arguments.leave_out,
        open_pack(packs, PACK, landmarks=True) if base.located else None,
    )
    if base.control is None:
        evaluation_set = replace(evaluation_set, hints=None)
    train = data.load(arguments.faceworld, ("train",), size, arguments.cache)

    def cached(one) -> CachedRecogniser:
        return CachedRecogniser(one, arguments.out / "recognised" / f"{one.name.replace('/', ' ')}.jsonl")

    first = cached(InsightFace.of(analyzer))
    recognisers = [first, *([] if arguments.no_dlib else [cached(Dlib(first.recognise))])]
    colours = people.Colours(train, data.read_labels(arguments.faceworld, ("val",)))
    evaluator = Evaluator(recognisers, cached_opener(), colours, people.others(train, arguments.out / "others"))
    given = {arm(name).name: Path(path) for name, _, path in (text.partition("=") for text in arguments.given)}
    lab = Lab(denoiser, data_set, read_recipe(arguments), arguments.steps, arguments.batch, arguments.out, given)
    sampler = ImageSampler(
        denoiser,
        evaluation_set,
        (weights.sizes.latent_channels, side, side),
        arguments.out / "pictures",
        arguments.sampling_steps,
        arguments.cfg,
        arguments.sampling_batch,
        control=base.control and hashlib.sha256(base.control.read_bytes()).hexdigest(),
    )
    settings = {name: str(value) for name, value in vars(arguments).items()} | {
        "base": denoiser.fingerprint,
        "base steps": weights.steps,
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if device == "cuda" else "",
        "cores": os.cpu_count(),
    }
    probe = open_probe(denoiser, data_set, evaluation_set, first.recognise, encoders, arguments.out / "probed")
    return Experiment(
        lab,
        sampler,
        Scorer(evaluator, evaluation_set, evaluation_set.hints is not None),
        arguments.out,
        jobs(names, arguments.seeds, arguments.strengths),
        settings,
        left_out,
        probe,
    )


def main() -> int:
    from .results import put_into

    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        results = open_all(arguments).run()
    except FaceCDMError as error:
        sys.exit(f"error: {error}")
    print(results.markdown())
    if arguments.write:
        put_into(arguments.write, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
