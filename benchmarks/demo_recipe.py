"""The demo's weights of 256 pixels, from the shipped base to the adapter and its measures, in stages.

    python benchmarks/demo_recipe.py --faceworld FACEWORLD --comfyui COMFYUI --models COMFYUI/models --begin WEIGHTS \\
        --run runs/recipe [--hours 10] [--threads 2] [--only STAGE …] [--smoke] [--list] [--ship]

WEIGHTS is a copy of the shipped demo.safetensors, since --ship replaces that file. Every stage is a public command:
--list prints them. A stage that has finished leaves RUN/done/STAGE and is skipped; an interrupted one resumes when the
recipe is started again. RUN/logs has what the commands print, and their time, RUN/weights the four files, RUN/bars the
measures, RUN/portraits what `python -m facecdm portrait` makes of them. --hours pauses the base's training after this
time; without it the stage trains on `Lengths.pictures` pictures.
--smoke does a few steps of each stage on a part of FaceWorld, in minutes.

--ship copies the weights into the package, sets the picture size in the base model and in the texts, and prints the
commands that make workflows, thumbnails and pictures anew.
"""

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import yaml

from shared import ROOT, lora_beside  # isort: skip  (puts the repository on the path)

from facecdm.demo import paths
from facecdm.demo.data import read_labels

MOST = 60e6  # bytes of all weights together
TEXTS = (
    "README.md",
    "README_zh.md",
    "web/docs/FaceCDMLoadDemoModel.md",
    "web/docs/FaceCDMLoadDemoModel/zh.md",
    "locales/zh/nodeDefs.json",
)
AGAIN = """
Make anew, with COMFYUI and BASE of .quickstart:
    python -m workflows.source.make --comfyui COMFYUI --base BASE        # workflows, API JSON, thumbnails
    python -m workflows.source.blueprints 127.0.0.1:8188                  # subgraphs, while a ComfyUI runs there
    python -m facecdm gallery --comfyui COMFYUI --base BASE               # docs/gallery.jpg, gallery.md
    python -m facecdm portrait --comfyui COMFYUI --base BASE --output output/portraits   # docs/portraits.jpg: its sheet
    python -m pytest tests/demo tests/hosts/comfy/demo tests/nodes tests/browser tests/server
Write by hand: docs/demo-model.md (design, commands, both tables, the sheet RUN/bars/demo-beside-real.png),
docs/pose.md, docs/results/demo_model.csv and demo_adapter.csv, README (likeness, sentence on real photos), the help
pages of Load FaceCDM Demo Model (channels of the VAE) and Load FaceCDM Demo Adapter, DEMO_MODEL_ADAPTER in
workflows/source/demo.py (a face location is no longer needed), the page "my photos" of docs/training.md.
"""


@dataclass(frozen=True)
class Lengths:
    """How long each stage trains, and how much is measured."""

    pictures: int = 1_600_000
    keep: int = 100_000
    decoder: int = 6000
    key_points: int = 7000
    pose: int = 2000
    judge_epochs: float = 8.0
    broad: int = 2150
    identity: int = 260
    fine: int = 30
    location: int = 1000
    drawn: int = 500
    drawn_fine: int = 200
    batch: int = 64
    captions: int = 200
    people: int = 48
    poses: int = 100
    one_person: tuple[int, int, int] = (800, 400, 200)
    prompts: int = 24
    steps: int = 20


SMOKE = Lengths(
    pictures=128,
    keep=64,
    decoder=2,
    key_points=24,
    pose=2,
    judge_epochs=1.0,
    broad=2,
    identity=2,
    fine=1,
    location=2,
    drawn=1,
    drawn_fine=1,
    batch=8,
    captions=8,
    people=3,
    poses=4,
    one_person=(2, 1, 1),
    prompts=2,
    steps=4,
)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--comfyui", type=Path, required=True, help="the ComfyUI folder (main.py in it)")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--begin", type=Path, required=True, metavar="WEIGHTS", help="the demo weights that the training begins with")
    add("--run", type=Path, default=Path("runs/recipe"))
    add("--hours", type=float, default=0.0, help="pause the base's training after this time; 0: no limit")
    add("--threads", type=int, default=2, help="cores")
    add("--judge", type=Path, help="a judge.pt made before (benchmarks/demo_judge.py); without it one is trained")
    add("--only", nargs="+", default=[], metavar="STAGE", help="these stages alone, even if they are done")
    add("--smoke", action="store_true", help="a few steps of each stage, on a part of FaceWorld")
    add("--list", action="store_true", help="print the commands and do nothing")
    add("--ship", action="store_true", help="put the weights into the package; see above")
    arguments = parser.parse_args()
    for name in ("faceworld", "comfyui", "models", "begin", "run"):
        setattr(arguments, name, getattr(arguments, name).absolute())
    return arguments


@dataclass(frozen=True)
class Stage:
    """`work` are commands of this Python, or functions."""

    name: str
    work: tuple[list[str] | Callable[[], None], ...]


class Recipe:
    """The stages for given arguments, in order."""

    def __init__(self, arguments: argparse.Namespace):
        self.how, self.run, self.lengths = arguments, arguments.run, SMOKE if arguments.smoke else Lengths()
        self.world = self.run / "faceworld" if arguments.smoke else arguments.faceworld
        self.weights, self.cache = self.run / "weights", self.run / "base" / "cache"
        self.judge = arguments.judge or self.run / "judge" / "judge.pt"
        self.recogniser = arguments.models / "insightface/models/buffalo_s/w600k_mbf.onnx"

    def stages(self) -> list[Stage]:
        stages = [
            Stage("base", (self.demo("train", "unet"),)),
            Stage("decoder", (self.demo("train", "decoder"), self.demo("train", "export"))),
            Stage("pose", (self.pose(),)),
            Stage("judge", () if self.how.judge else (self.train_judge(),)),
            Stage("curve", (self.measure_curve,)),
            Stage("base-bars", (self.base_bars(self.weights / paths.MODEL.name),)),
            Stage("yaw", (self.yaw(),)),
            Stage("data", (self.data_set(self.world, "data", "--splits", "train", "wide"),)),
            Stage("broad", (lambda: self.write("broad", self.broad()), self.training("broad"))),
            Stage("drawn", (lambda: self.write("drawn", self.drawn()), self.training("drawn"))),
            Stage("half", (self.halve,)),
            Stage("portraits", (self.write_workflow, self.portraits())),
            *(Stage(f"bars-{name}", (self.identity_bars(name, *more),)) for name, more in LOCATIONS.items()),
            Stage("one-person", self.one_person()),
        ]
        return [Stage("world", (self.small_world,)), *stages] if self.how.smoke else stages

    # ---- commands ----

    def demo(self, *what: str, **more) -> list[str]:
        """`facecdm demo …` on the parts in RUN/base."""
        lengths = self.lengths
        steps = (0, 0, lengths.pictures // lengths.batch, lengths.decoder, 0)
        batches = (16, 64, lengths.batch, min(12, lengths.batch), 128)
        options = self.tokenised(data=self.world, run=self.run / "base", begin=self.how.begin)
        options += ["--steps", *map(str, steps), "--batch", *map(str, batches)]
        options += _options(keep_pictures=lengths.keep, hours=self.how.hours, save_every=100)
        options += _options(**{"out": self.weights / paths.MODEL.name} | more)
        return ["-m", "facecdm", "demo", *what, *options, *([] if self.how.smoke else ["--compile"])]

    def pose(self) -> list[str]:
        lengths = self.lengths
        return [
            *("-m", "facecdm", "demo", "train-pose"),
            *self.tokenised(data=self.world, models=self.how.models, run=self.run / "base"),
            *_options(weights=self.weights / paths.MODEL.name, out=self.weights / paths.POSE_CONTROLNET.name),
            *_options(pictures=lengths.key_points, steps=lengths.pose, batch=min(16, lengths.batch)),
        ]

    def tokenised(self, **options) -> list[str]:
        return _options(tokenizer=self.how.comfyui / "comfy/sd1_tokenizer", threads=self.how.threads, **options)

    def train_judge(self) -> list[str]:
        epochs, batch = self.lengths.judge_epochs, min(128, self.lengths.batch)
        options = _options(faceworld=self.world, models=self.how.models, cache=self.cache, threads=self.how.threads)
        return [*_benchmark("demo_judge"), *options, *_options(out=self.judge.parent, epochs=epochs, batch=batch)]

    def measured(self, name: str) -> list[str]:
        """The options that the benchmarks share."""
        how = self.how
        return _options(
            faceworld=self.world,
            comfyui=how.comfyui,
            models=how.models,
            threads=how.threads,
            out=self.run / "bars" / f"{name}.json",
        )

    def base_bars(self, *weights: Path, name: str = "base") -> list[str]:
        options = [*self.measured(name), *_options(cache=self.cache, judge=self.judge, captions=self.lengths.captions)]
        return [*_benchmark("demo_bars"), *options, "--weights", *map(str, weights)]

    def yaw(self) -> list[str]:
        return [
            *_benchmark("pose_bars"),
            *self.measured("yaw"),
            *_options(weights=self.weights / paths.MODEL.name, pose=self.weights / paths.POSE_CONTROLNET.name),
            *_options(pictures=self.lengths.poses, heads=min(576, 12 * self.lengths.poses)),
        ]

    def data_set(self, source: Path, name: str, *more: str) -> list[str]:
        options = _options(pack="buffalo_s", aspect=1, faces=self.how.models / "insightface", detection_size=320)
        tokenizer = _options(tokenizer=self.how.comfyui / "comfy/sd1_tokenizer")
        return ["-m", "facecdm", "dataset", str(source), str(self.run / name), *more, *options, *tokenizer]

    def training(self, name: str) -> list[str]:
        """`facecdm train`, on several cores with a process each."""
        processes = self.how.threads
        launched = ["-m", "torch.distributed.run", "--nproc-per-node", str(processes)] if processes > 1 else []
        return [*launched, "-m", "facecdm", "train", str(self.run / f"{name}.yaml")]

    def identity_bars(self, name: str, *more: str) -> list[str]:
        dlib = ["--dlib"] if importlib.util.find_spec("dlib") else []
        options = [*self.measured(name), *_options(cache=self.cache, judge=self.judge, people=self.lengths.people)]
        return [
            *_benchmark("identity_bars"),
            *options,
            *_options(adapter=self.weights / paths.ADAPTER.name),
            *more,
            *dlib,
        ]

    def portraits(self) -> list[str]:
        """The portraits that a user gets, from a workflow of the new size."""
        return [
            *("-m", "facecdm", "portrait"),
            *_options(comfyui=self.how.comfyui, base=self.how.models.parent, workflow=self.run / "portrait.json"),
            *_options(output=self.run / "portraits", steps=self.lengths.steps),
        ]

    def one_person(self) -> tuple:
        """A stranger's photos, the preset *one person*, and the likeness before and after, without a pose."""
        who, out = "val-0009" if not self.how.smoke else "val-0001", self.run / "one"
        options = _options(
            faceworld=self.world, models=self.how.models, identity=who, threads=self.how.threads, out=out
        )
        adapters = [self.weights / paths.ADAPTER.name, out / "run/adapter.safetensors"]
        make = [*_benchmark("one_person"), *options, *_options(adapter=adapters[0], lora=lora_beside_path(adapters[0]))]
        bars = [*_benchmark("identity_bars"), *self.measured("one-person"), *_options(cache=self.cache, identity=who)]
        bars += [*_options(prompts=self.lengths.prompts, judge=self.judge), "--adapter", *map(str, adapters)]
        prepare = self.data_set(out / "photos", "one/data", "--identities", "one person")
        return make, prepare, self.shorten_one_person, ["-m", "facecdm", "train", str(out / "one.yaml")], bars

    # ---- configurations ----

    def configuration(self, out: str, **more) -> dict:
        return {
            "base": "demo",
            "data": str(self.run / "data"),
            "out": str(self.run / out),
            "preset": "adapter",
            "recogniser": str(self.recogniser),
            "held_out": 0.0,
            "threads": 1,
            **more,
        }

    def broad(self) -> dict:
        """Losses on one-step predictions; the location head is trained first."""
        lengths = self.lengths
        every = COMMON | {"batch": lengths.batch, "warmup": 30, "linear_identity": 0.5}
        own = {"learning_rate": 1.0e-3, "face_window": 0.9}
        identity = {
            "identity": 0.1,
            "identity_below": 400,
            "identity_every": 4,
            "identity_ramp": 0,
            "localisation": 0.0,
        }
        return self.configuration(
            "broad",
            sizes={
                "face_tokens": 1024,
                "face_rank": 80,
                "face_content": 40,
                "image_tokens": 4,
                "image_layers": 1,
                "interplay": False,
            },
            all=every | {"drop_pose": 0.1},
            stages={
                "broad": own | {"steps": lengths.broad, "schedule": "constant", "location_steps": lengths.location},
                "identity": own | identity | {"steps": lengths.identity, "schedule": "linear"},
                "fine": {
                    "steps": lengths.fine,
                    "learning_rate": 1.0e-4,
                    "noise_low": 0,
                    "noise_high": 1000,
                    "noise_share": 0.0,
                    "linear_identity": 0.0,
                    "identity": 0.0,
                    "alignment": 0.0,
                    "background": 0.0,
                },
            },
        )

    def drawn(self) -> dict:
        """An identity loss on images sampled from noise, half of them with the adapter's own face location."""
        lengths, begun = self.lengths, self.run / "broad" / "adapter.safetensors"
        every = COMMON | {
            "batch": min(24, lengths.batch),
            "warmup": 10,
            "drop_pose": 0.05,
            "find_location": 0.5,
            "linear_identity": 0.5,
            "identity": 0.3,
            "identity_toward": "person",
            "identity_ramp": 0,
            "localisation": 0.0,
            "alignment": 0.0,
            "few_steps": 4,
            "few_steps_from": "noise",
            "few_steps_guidance": 4.0,
            "few_steps_learnt": 4,
        }
        return self.configuration(
            "drawn",
            adapter=str(begun),
            lora=str(lora_beside_path(begun)),
            all=every,
            stages={
                "broad": {"steps": 0},
                "identity": {
                    "steps": lengths.drawn,
                    "learning_rate": 6.0e-4,
                    "schedule": "constant",
                    "face_window": 0.95,
                },
                "fine": {
                    "steps": lengths.drawn_fine,
                    "learning_rate": 5.0e-4,
                    "schedule": "linear",
                    "noise_high": 980,
                    "noise_share": 0.95,
                    "face_window": 0.25,
                    "face_region": 0.0,
                    "background": 2.0,
                    "alignment_every": 1,
                    "identity_every": 2,
                },
            },
        )

    def write(self, name: str, configuration: dict) -> None:
        (self.run / f"{name}.yaml").write_text(yaml.safe_dump(configuration, sort_keys=False), encoding="utf-8")

    # ---- work of our own ----

    def small_world(self) -> None:
        """FaceWorld for --smoke: all of `val`, twenty people of the others, and pictures with every caption's words."""
        self.world.mkdir(parents=True, exist_ok=True)
        for split in ("train", "wide", "val"):
            labels = read_labels(self.how.faceworld, (split,))
            known, kept = set(), []
            for label in labels:
                words = set(re.findall(r"[a-z-]+", label["caption"]))
                some = label["view"] < 2 and int(label["identity"].split("-")[1]) < 20
                if split == "val" or some or words - known:
                    kept.append(json.dumps(label))
                    known |= words
            (self.world / f"{split}.jsonl").write_text("\n".join(kept) + "\n", encoding="utf-8")
            if not (self.world / split).exists():
                (self.world / split).symlink_to(self.how.faceworld / split)

    def measure_curve(self) -> None:
        """The base's measures over the pictures that it has seen."""
        kept = sorted((self.run / "base").glob("unet-*.pt"), key=lambda path: int(path.stem.split("-")[1]))
        files = []
        for path in kept:
            files.append(self.run / "curve" / f"{path.stem}.safetensors")
            if not files[-1].exists():
                self.execute(self.demo("train", "export", average=path, out=files[-1]))
        if files:
            self.execute(self.base_bars(*files, name="curve") + _options(captions=min(64, self.lengths.captions)))

    def halve(self) -> None:
        """Write adapter and LoRA in half precision; check that all weights together are small enough."""
        import torch
        from safetensors.torch import save_file

        from facecdm.adapter.native import load_adapter, save_adapter
        from facecdm.tensor_file import read_tensors

        trained = self.run / "drawn" / "adapter.safetensors"
        save_adapter(load_adapter(trained).half(), self.weights, paths.ADAPTER.stem, overwrite=True)
        tensors, metadata = read_tensors(lora_beside(trained))
        half = {name: value.to(torch.float16) for name, value in tensors.items()}
        save_file(half, self.weights / paths.ADAPTER_LORA.name, metadata)
        size = sum(path.stat().st_size for path in self.weights.glob("*.safetensors"))
        print(f"all weights: {size / 1e6:.1f} MB of {MOST / 1e6:.0f}")
        if size > MOST:
            raise SystemExit("the weights are too large; train with a smaller lora_rank (COMMON)")

    def write_workflow(self) -> None:
        """Write the portrait workflow with the new size."""
        from facecdm.demo.weights import read_sizes

        graph = json.loads((ROOT / "workflows/api/portrait.json").read_text(encoding="utf-8"))
        side = read_sizes(self.weights / paths.MODEL.name).image_size
        for node in graph.values():
            if node["class_type"] == "EmptyLatentImage":
                node["inputs"] |= {"width": side, "height": side}
        (self.run / "portrait.json").write_text(json.dumps(graph, indent=1), encoding="utf-8")

    def shorten_one_person(self) -> None:
        """Set the steps of the preset's stages, which --smoke shortens."""
        path = self.run / "one" / "one.yaml"
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        names = ("broad", "identity", "fine")
        config["stages"] = {name: {"steps": steps} for name, steps in zip(names, self.lengths.one_person)}
        path.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")

    # ---- running ----

    def start(self) -> None:
        done = self.run / "done"
        done.mkdir(parents=True, exist_ok=True)
        for stage in self.stages():
            marker = done / stage.name
            if stage.name not in self.how.only if self.how.only else marker.exists():
                continue
            print(f"{time.strftime('%H:%M:%S')} {stage.name}", flush=True)
            self.stage, began = stage.name, _clock()
            for work in stage.work:
                work() if callable(work) else self.execute(work)
            marker.write_text(_since(began) + "\n")

    def execute(self, command: list[str]) -> None:
        """Run a command of this Python; its output goes to the stage's log."""
        log = self.run / "logs" / f"{self.stage}.log"
        log.parent.mkdir(exist_ok=True)
        began = _clock()
        with log.open("a") as file:
            file.write(f"$ python {' '.join(command)}\n")
            file.flush()
            environment = os.environ | {
                "FACECDM_DEMO_WEIGHTS": str(self.weights),
                "OMP_NUM_THREADS": "1" if "torch.distributed.run" in command else str(self.how.threads),
            }
            code = subprocess.run(
                [sys.executable, *command], cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            ).returncode
            file.write(f"# {_since(began)}, exit code {code}\n")
        # A benchmark exits with 1 if a target is missed, which is no reason to stop.
        if code and not (command[0].startswith("benchmarks") and self.measures_written(command)):
            raise SystemExit(f"{self.stage} failed (exit code {code}): see {log}")

    def measures_written(self, command: list[str]) -> bool:
        out = Path(command[command.index("--out") + 1])
        return out.suffix == ".json" and out.exists()

    def show(self) -> None:
        for stage in self.stages():
            print(f"\n# {stage.name}")
            for work in stage.work:
                print(
                    f"({work.__doc__ or 'writes the configuration'})" if callable(work) else f"python {' '.join(work)}"
                )

    def ship(self) -> None:
        """Put the weights into the package, and their picture size into the base model and the texts."""
        from facecdm.demo.weights import read_sizes

        new, old = read_sizes(self.weights / paths.MODEL.name), read_sizes(paths.MODEL)
        for packaged in (paths.MODEL, paths.ADAPTER, paths.ADAPTER_LORA, paths.POSE_CONTROLNET):
            shutil.copyfile(self.weights / packaged.name, packaged)
        set_size(ROOT, (old.image_size, old.downscale), (new.image_size, new.downscale))
        print(AGAIN)


# Where the face will be: found by the adapter, given, or given with the pose ControlNet.
LOCATIONS = {"found": (), "location": ("--with-location",), "pose": ("--pose",)}
COMMON = {
    "rank": 0,
    "lora_rank": 16,
    "lora_layers": "all",
    "precision": "bf16",
    "gate_rate": 1.0,
    "min_snr": 0,
    "ema": 0.99,
    "save_every": 50,
    "drop_image": 0.5,
    "drop_text": 0.1,
    "drop_face": 0.1,
    "face_region": 0.2,
    "noise_low": 100,
    "noise_high": 980,
    "noise_share": 0.95,
    "train": ["projectors", "keys_values", "gates", "lora"],
}


def _options(**values) -> list[str]:
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def _benchmark(name: str) -> list[str]:
    return [f"benchmarks/{name}.py"]


def _clock() -> tuple[float, float]:
    """Seconds on the clock, and of the processor by finished commands."""
    used = os.times()
    return time.time(), used.children_user + used.children_system


def _since(began: tuple[float, float]) -> str:
    seconds, used = (now - before for now, before in zip(_clock(), began))
    return f"{seconds:.0f} s, {used:.0f} s of the processor"


def lora_beside_path(adapter: Path) -> Path:
    """Where a training writes the LoRA of an adapter."""
    return adapter.with_name(f"{adapter.stem}_lora.safetensors")


def set_size(root: Path, old: tuple[int, int], new: tuple[int, int]) -> None:
    """Set picture size and step of the demo's base model, and the size in the texts."""
    _replace(root / "facecdm/bases/demo.py", *("resolution={},\n    step={},".format(*size) for size in (old, new)))
    for name in TEXTS:
        _replace(root / name, *(f"{side} × {side}" for side, _ in (old, new)))


def _replace(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    if old not in text:
        raise SystemExit(f"{path} does not contain {old!r}")
    path.write_text(text.replace(old, new), encoding="utf-8")


def main() -> int:
    recipe = Recipe(parse())
    if recipe.how.ship:
        recipe.ship()
    elif recipe.how.list:
        recipe.show()
    else:
        recipe.start()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
