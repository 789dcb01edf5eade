"""Run the ablation: trainings that differ in one thing, scored in the same way.

    python -m research.ablation --faceworld FACEWORLD --comfyui DIR --models DIR/models --judge JUDGE.pt \\
        --write docs/results.md [--list | --smoke]

Each arm is trained on the demo model (FACECDM_DEMO_WEIGHTS names other weights), samples the same people with the same
prompts and noise, and is scored by InsightFace, by dlib, which no training used, and by the judge of
benchmarks/demo_judge.py. The plan is arms.py, and what the arms share is recipe.yaml. Everything is in --out: a run
that was stopped or killed continues with the same arm and step, and results.md, tables/, results.json, strength.png
and sheet.jpg are rewritten after each arm. A run on another machine with --earlier tables/people.csv skips the
conditions in it. --data is made from FaceWorld if it does not exist.

--small-flux takes the base model of research.small_flux, a DiT, which is sampled without a pose ControlNet.
--list prints the arms with their settings, weights, pictures and costs, as measured by earlier runs in OUT.
--smoke runs every arm for a few steps, in minutes.
"""

import argparse
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.shared import ROOT
from facecdm.demo.paths import POSE_CONTROLNET, in_use
from facecdm.demo.weights import DemoWeights, read
from facecdm.errors import FaceCDMError
from facecdm.evaluation.evaluate import Evaluator
from facecdm.training.dataset.demo import DemoEncoders
from facecdm.training.denoiser import Denoiser

from .arms import ARMS, arm
from .bases import Bases
from .experiment import Experiment, available, jobs
from .smoke import SMOKE_PEOPLE, short_recipe

HERE = Path(__file__).resolve().parent
PACK, RECOGNISER = "buffalo_s", "insightface/models/buffalo_s/w600k_mbf.onnx"


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--comfyui", type=Path, required=True, help="the ComfyUI folder, for its tokenizer")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--judge", type=Path, help="judge.pt of benchmarks/demo_judge.py; without it only colours are judged")
    add("--list", action="store_true", help="print the arms and what they take, and train nothing")
    add("--smoke", action="store_true", help="every arm for a few steps, two people, and a small data set")
    add("--data", type=Path, help="the data set that is trained on (default: OUT/data)")
    add(
        "--pose",
        type=Path,
        default=in_use(POSE_CONTROLNET),
        help="the demo's pose ControlNet, used by all arms but two",
    )
    add("--small-flux", type=Path, metavar="RUN", help="the base model is the small Flux that was trained there")
    add("--recipe", type=Path, default=HERE / "recipe.yaml", help="a training configuration; the arms change it")
    add(
        "--given",
        nargs="+",
        default=[],
        metavar="ARM=FILE",
        help="existing adapters instead of an arm's first training (LoRAs beside one are applied)",
    )
    add(
        "--location-head",
        type=Path,
        metavar="ADAPTER",
        help="the adapter whose location head all arms share (default: one is trained)",
    )
    add("--arms", nargs="+", help=f"some of: {', '.join(one.name for one in ARMS)} (default: all)")
    add("--seeds", type=int, default=3, help="trainings of each headline arm")
    add("--share", type=float, default=1.0, help="of the recipe's steps; less makes every training shorter")
    add(
        "--precision",
        choices=("fp32", "bf16", "fp16"),
        help="number format of the trainings (default: the recipe's); fp32 is faster on processors without bf16",
    )
    add("--people", type=int, default=48)
    add("--prompts", type=int, default=4, help="for each person")
    add(
        "--leave-out",
        nargs="*",
        default=[],
        help="val people who are not used; 0009 0014 are in the demo's adapter",
    )
    add("--strengths", type=float, nargs="*", help="of the curves, besides 1 (default: those in arms.py)")
    add("--sampling-steps", type=int, default=20)
    add("--sampling-batch", "--draw-batch", type=int, default=8, help="images sampled at once")
    add("--cfg", type=float, default=4.0)
    add("--no-dlib", action="store_true", help="without the second recogniser (pip install facecdm[evaluation])")
    add("--cache", type=Path, default=Path("runs/bench-cache"), help="decoded FaceWorld pictures")
    add("--out", type=Path, default=Path("runs/ablation"))
    add(
        "--earlier",
        type=Path,
        metavar="CSV",
        help="scores of runs on other machines (docs/results/people.csv); its conditions are not sampled again. A "
        "condition that is not in it trains its adapter here, unless --given names the file",
    )
    add("--write", type=Path, help="a Markdown file whose marked part is replaced by the results")
    add("--device", help="default: the GPU where there is one")
    add("--threads", type=int, default=0)
    found = parser.parse_args(arguments)
    if found.smoke:
        found.people, found.prompts, found.sampling_steps, found.strengths, found.seeds = 2, 2, 4, [0.5], 1
    found.data = found.data or found.out / "data"
    return found


def make_data(arguments: argparse.Namespace) -> None:
    """Make the data set unless it exists; an interrupted command continues. Raises FaceCDMError."""
    done = arguments.data / "done"
    if done.exists() or (arguments.data != arguments.out / "data" and arguments.data.exists()):
        return
    options = ["--splits", "train", "wide", "--pack", PACK, "--aspect", "1", "--detection-size", "320"]
    options += ["--faces", arguments.models / "insightface", "--tokenizer", arguments.comfyui / "comfy/sd1_tokenizer"]
    options += ["--pose", "openpose", "--landmarks"]  # for the ControlNet of InstantID's design
    options += ["--people", SMOKE_PEOPLE] if arguments.smoke else []
    command = [sys.executable, "-m", "facecdm", "dataset", arguments.faceworld, arguments.data, *options]
    if subprocess.run([str(part) for part in command], cwd=ROOT).returncode:
        raise FaceCDMError("the data set could not be made; see above")
    done.touch()


def read_recipe(arguments: argparse.Namespace):
    import yaml

    from facecdm.training.config import Config

    values = short_recipe(
        yaml.safe_load(arguments.recipe.read_text(encoding="utf-8")), arguments.share, arguments.smoke
    )
    if arguments.precision:
        values["all"]["precision"] = arguments.precision
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

    located  whether adapters are conditioned on face location
    """

    bases: Bases
    encoders: DemoEncoders
    located: bool

    @property
    def denoiser(self) -> Denoiser:
        return self.bases.plain


def open_base(arguments: argparse.Namespace, weights: DemoWeights, device: str) -> Base:
    """The demo model, or the small Flux on its latents."""
    tokenizer = arguments.comfyui / "comfy" / "sd1_tokenizer"
    if arguments.small_flux is not None:
        from ..small_flux.denoiser import open_denoiser
        from ..small_flux.encoders import FluxEncoders

        return Base(Bases(open_denoiser(arguments.small_flux, weights)), FluxEncoders(tokenizer, weights), True)
    pose = arguments.pose if arguments.pose.is_file() else None
    return Base(Bases.open(weights, device, pose), DemoEncoders(tokenizer, weights), pose is not None)


def open_lab(arguments: argparse.Namespace, bases: Bases):
    """The trainings' part of the experiment."""
    from facecdm.adapter.native import load_adapter
    from facecdm.training.dataset.data_set import DataSet

    from .training import Lab

    head = None
    if arguments.location_head is not None and (head := load_adapter(arguments.location_head).location_head) is None:
        raise FaceCDMError(f"{arguments.location_head} has no location head: name another adapter")
    given = {arm(name).name: Path(path) for name, _, path in (text.partition("=") for text in arguments.given)}
    return Lab(bases, DataSet(arguments.data), read_recipe(arguments), arguments.out, given, head)


def open_evaluator(arguments: argparse.Namespace, analyzer, image_size: int) -> Evaluator:
    """The measures; the first recogniser is `analyzer`'s."""
    from facecdm.demo import data
    from facecdm.evaluation.pictures import cached_opener
    from facecdm.evaluation.recognisers import Dlib, InsightFace

    from . import people
    from .scoring import CachedRecogniser

    def cached(one) -> CachedRecogniser:
        return CachedRecogniser(one, arguments.out / "recognised" / f"{one.name.replace('/', ' ')}.jsonl")

    train = data.load(arguments.faceworld, ("train",), image_size, arguments.cache)
    first = cached(InsightFace.of(analyzer))
    recognisers = [first, *([] if arguments.no_dlib else [cached(Dlib(first.recognise))])]
    others = people.others(train, arguments.out / "others")
    return Evaluator(recognisers, cached_opener(), others=others, judge=people.Reader(train, arguments.judge))


def settings_of(arguments: argparse.Namespace, base: str, steps: int, device: str) -> dict:
    """The options, the base model's fingerprint and training steps, and the machine, for results.json."""
    return {name: str(value) for name, value in vars(arguments).items()} | {
        "base": base,
        "base steps": steps,
        "device": device,
        "torch": torch.__version__,
        "cuda": torch.cuda.get_device_name() if device == "cuda" else "",
        "cores": os.cpu_count(),
    }


def open_all(arguments: argparse.Namespace) -> Experiment:
    from facecdm.faces.analyzer import open_pack

    from . import earlier, people
    from .sampling import ImageSampler
    from .scoring import Scorer

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    weights, packs = read(), [arguments.models / "insightface"]
    base = open_base(arguments, weights, device)
    lab, encoders = open_lab(arguments, base.bases), base.encoders
    names, left_out = available(arguments.arms, lab.bases.posed is not None)
    analyzer = open_pack(packs, PACK)
    if analyzer.recogniser != lab.data.recogniser:
        raise FaceCDMError(
            f"{arguments.data} was embedded by {lab.data.recogniser}, and {PACK} has "
            f"{analyzer.recogniser}: prepare it with {PACK}"
        )
    sizes = weights.sizes
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
        judged=arguments.judge is not None,
    )
    if lab.bases.posed is None:
        evaluation_set = replace(evaluation_set, hints=None)
    evaluator = open_evaluator(arguments, analyzer, sizes.image_size)
    side = sizes.image_size // sizes.downscale
    sampler = ImageSampler(
        lab.bases,
        evaluation_set,
        (sizes.latent_channels, side, side),
        arguments.out / "pictures",
        arguments.sampling_steps,
        arguments.cfg,
        arguments.sampling_batch,
    )
    settings = settings_of(arguments, lab.bases.plain.fingerprint, weights.steps, device)
    scorer = Scorer(evaluator, evaluation_set, evaluation_set.hints is not None)
    chosen = jobs(names, arguments.seeds, arguments.strengths)
    everything, _ = available(None, lab.bases.posed is not None)
    wanted = [job.condition for job in jobs(everything, arguments.seeds, arguments.strengths)]
    known = earlier.read(arguments.earlier) if arguments.earlier else earlier.Earlier()
    return Experiment(lab, sampler, scorer, arguments.out, chosen, settings, wanted, left_out, known)


def show(arguments: argparse.Namespace) -> None:
    """Print the arms and what they take."""
    from .costs import FILE, Costs, listing

    lab = open_lab(arguments, open_base(arguments, read(), "cpu").bases)
    names, left_out = available(arguments.arms, lab.bases.posed is not None)
    images = arguments.people * arguments.prompts
    chosen = jobs(names, arguments.seeds, arguments.strengths)
    print(listing(lab, chosen, images, arguments.sampling_steps, Costs.read(arguments.out / FILE)))
    for name, why in left_out.items():
        print(f"{name}: left out, {why}")


def main() -> int:
    from .costs import FILE, measured
    from .results import put_into

    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    try:
        make_data(arguments)
        if arguments.list:
            show(arguments)
            return 0
        experiment = open_all(arguments)
        results = experiment.run()
    except FaceCDMError as error:
        sys.exit(f"error: {error}")
    print(results.markdown())
    measured(experiment).write(arguments.out / FILE)
    if arguments.write:
        put_into(arguments.write, arguments.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
