"""The commands of the stages: arguments of this Python."""

import importlib.util
from functools import partial
from pathlib import Path

from facecdm.demo import paths

from .files import lora_beside_path, shorten_one_person
from .plan import Plan

Command = list[str]
Work = Command | partial[list[Command] | None]  # a command, or a function that may return further ones


def demo(plan: Plan, *what: str, **more) -> Command:
    """`facecdm demo …` on the parts in RUN/base."""
    lengths = plan.lengths
    steps = (0, 0, lengths.pictures // lengths.batch, lengths.decoder, 0)
    batches = (16, 64, lengths.batch, min(12, lengths.batch), 128)
    options = tokenised(plan, data=plan.world, run=plan.run / "base", begin=plan.how.begin, models=plan.how.models)
    options += ["--steps", *map(str, steps), "--batch", *map(str, batches)]
    options += _options(keep_pictures=lengths.keep, hours=plan.how.hours, save_every=100)
    options += _options(**{"out": plan.weights / paths.MODEL.name} | more)
    return ["-m", "facecdm", "demo", *what, *options, *([] if plan.how.smoke else ["--compile"])]


def pose(plan: Plan) -> Command:
    lengths = plan.lengths
    return [
        *("-m", "facecdm", "demo", "train-pose"),
        *tokenised(plan, data=plan.world, models=plan.how.models, run=plan.run / "base"),
        *_options(weights=plan.weights / paths.MODEL.name, out=plan.weights / paths.POSE_CONTROLNET.name),
        *_options(pictures=lengths.key_points, steps=lengths.pose, batch=min(16, lengths.batch)),
    ]


def tokenised(plan: Plan, **options) -> Command:
    return _options(tokenizer=plan.how.comfyui / "comfy/sd1_tokenizer", threads=plan.how.threads, **options)


def train_judge(plan: Plan) -> Command:
    epochs, batch = plan.lengths.judge_epochs, min(128, plan.lengths.batch)
    options = _options(faceworld=plan.world, models=plan.how.models, cache=plan.cache, threads=plan.how.threads)
    return [*_benchmark("demo_judge"), *options, *_options(out=plan.judge.parent, epochs=epochs, batch=batch)]


def measured(plan: Plan, name: str) -> Command:
    """The options that the benchmarks share."""
    how = plan.how
    return _options(
        faceworld=plan.world,
        comfyui=how.comfyui,
        models=how.models,
        threads=how.threads,
        out=plan.run / "bars" / f"{name}.json",
    )


def base_bars(plan: Plan, *weights: Path, name: str = "base") -> Command:
    options = [*measured(plan, name), *_options(cache=plan.cache, judge=plan.judge, captions=plan.lengths.captions)]
    return [*_benchmark("demo_bars"), *options, "--weights", *map(str, weights)]


def curve(plan: Plan) -> list[Command]:
    """The base's measures over the pictures that it has seen."""
    kept = sorted((plan.run / "base").glob("unet-*.pt"), key=lambda path: int(path.stem.split("-")[1]))
    files = {path: plan.run / "curve" / f"{path.stem}.safetensors" for path in kept}
    exports = [
        demo(plan, "train", "export", average=path, out=file) for path, file in files.items() if not file.exists()
    ]
    captions = _options(captions=min(64, plan.lengths.captions))
    return [*exports, base_bars(plan, *files.values(), name="curve") + captions] if files else []


def yaw(plan: Plan) -> Command:
    return [
        *_benchmark("pose_bars"),
        *measured(plan, "yaw"),
        *_options(weights=plan.weights / paths.MODEL.name, pose=plan.weights / paths.POSE_CONTROLNET.name),
        *_options(pictures=plan.lengths.poses, heads=min(576, 12 * plan.lengths.poses)),
    ]


def data_set(plan: Plan, source: Path, name: str, *more: str) -> Command:
    options = _options(pack="buffalo_s", aspect=1, faces=plan.how.models / "insightface", detection_size=320)
    tokenizer = _options(tokenizer=plan.how.comfyui / "comfy/sd1_tokenizer")
    return ["-m", "facecdm", "dataset", str(source), str(plan.run / name), *more, *options, *tokenizer]


def training(plan: Plan, name: str) -> Command:
    """`facecdm train`, on several cores with a process each."""
    processes = plan.how.threads
    launched = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
    return [*launched, "-m", "facecdm", "train", str(plan.run / f"{name}.yaml")]


def identity_bars(plan: Plan, name: str, *more: str) -> Command:
    dlib = ["--dlib"] if importlib.util.find_spec("dlib") else []
    options = [*measured(plan, name), *_options(cache=plan.cache, judge=plan.judge, people=plan.lengths.people)]
    return [
        *_benchmark("identity_bars"),
        *options,
        *_options(adapter=plan.weights / paths.ADAPTER.name),
        *more,
        *dlib,
    ]


def portraits(plan: Plan, output: Path, *more: str) -> Command:
    """The portraits that a user gets."""
    return ["-m", "facecdm", "portrait", *_in_comfyui(plan), *_options(output=output, steps=plan.lengths.steps), *more]


def gallery(plan: Plan) -> Command:
    return ["-m", "facecdm", "gallery", *_in_comfyui(plan), *_options(output=plan.run / "gallery")]


def workflows(plan: Plan) -> Command:
    """Workflows, API JSON, thumbnails and subgraphs."""
    return ["-m", "workflows.source.make", *_in_comfyui(plan)]


def _in_comfyui(plan: Plan) -> list[str]:
    return _options(comfyui=plan.how.comfyui, base=plan.how.models.parent)


def one_person(plan: Plan) -> tuple[Work, ...]:
    """A stranger's photos, the preset *one person*, and the likeness before and after, without a pose."""
    who, out = "val-0009" if not plan.how.smoke else "val-0001", plan.run / "one"
    options = _options(faceworld=plan.world, models=plan.how.models, identity=who, threads=plan.how.threads, out=out)
    adapters = [plan.weights / paths.ADAPTER.name, out / "run/adapter.safetensors"]
    make = [*_benchmark("one_person"), *options, *_options(adapter=adapters[0], lora=lora_beside_path(adapters[0]))]
    bars = [*_benchmark("identity_bars"), *measured(plan, "one-person"), *_options(cache=plan.cache, identity=who)]
    bars += [*_options(prompts=plan.lengths.prompts, judge=plan.judge), "--adapter", *map(str, adapters)]
    prepare = data_set(plan, out / "photos", "one/data", "--identities", "one person")
    train = ["-m", "facecdm", "train", str(out / "one.yaml")]
    return make, prepare, partial(shorten_one_person, plan), train, bars


def _options(**values) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def _benchmark(name: str) -> list[str]:
    return [f"benchmarks/{name}.py"]
