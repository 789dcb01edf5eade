"""`python -m facecdm dataset` and `train`: from pictures to files, alone and as two processes."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from accelerate import Accelerator
from accelerate.tracking import GeneralTracker
from lab import STAGE, TinySource, tiny_denoiser
from safetensors.torch import load_file, save_file

from facecdm.adapter.native import load_adapter
from facecdm.errors import BadFile, FaceCDMError, Mismatch
from facecdm.hosts.diffusers.denoiser import open_base
from facecdm.training import config as configuration
from facecdm.training.checks import Inputs, Job
from facecdm.training.initialise import new_adapter
from facecdm.training.orchestrator import Training
from facecdm.training.session import Session, _Follow, device_of
from facecdm.training.worker import ALONE

ROOT = Path(__file__).parents[2]
RECOGNISER = "models/insightface/models/buffalo_s/w600k_mbf.onnx"
PHOTOS = 6


def command(*arguments, launcher=("-m",)) -> subprocess.CompletedProcess:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launcher, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-3000:]
    return done


def opened(config: configuration.Config) -> Session:
    return Session(config, lambda config, device: open_base(config.base, device, config.control))


@pytest.fixture(scope="module")
def data_set(faceworld_val, face_models, comfyui, tmp_path_factory):
    """A few real portraits, found and encoded by the command itself."""
    root = tmp_path_factory.mktemp("pictures")
    for number, picture in enumerate(sorted(faceworld_val.rglob("*.webp"))[:PHOTOS]):
        person = root / f"person {number % 2}"
        person.mkdir(exist_ok=True)
        shutil.copy(picture, person)
        (person / picture.with_suffix(".txt").name).write_text("a woman, long red hair, plain blue background")
    out = root.parent / "data"
    command(
        "facecdm",
        "dataset",
        root,
        out,
        "--pack",
        "buffalo_s",
        "--faces",
        face_models / "models" / "insightface",
        "--tokenizer",
        comfyui / "comfy" / "sd1_tokenizer",
        "--aspect",
        "1",
        "--pose",
        "openpose",
    )
    return out


def write(folder: Path, data_set: Path, face_models: Path, **more) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    short = {"steps": 2, "batch": 2, "rank": 0, "warmup": 0, "validate_every": 2, "contrast": 0.0}
    stages = {"identity": {"identity_below": 1000, "lora_rank": 2}, "fine": {"steps": 1}}
    path = folder / "train.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "data": str(data_set),
                "out": "run",
                "recogniser": str(face_models / RECOGNISER),
                "held_out": 0.0,
                "threads": 1,
                "device": "cpu",
                "sizes": {"face_rank": 4, "image_layers": 1, "knots": 3},
                "all": short,
                "stages": stages,
            }
            | more
        )
    )
    return path


@pytest.fixture(scope="module")
def alone(data_set, face_models, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    command("facecdm", "train", write(folder, data_set, face_models, held_out=0.5))
    return folder / "run"


def test_three_stages_leave_an_adapter_a_lora_plots_and_pictures(alone):
    adapter = load_adapter(alone / "adapter.safetensors")
    assert adapter.config.recogniser.endswith("w600k_mbf.onnx") and adapter.config.knots == 3
    assert not adapter.streams["face"].gate.is_zero
    assert any(name.endswith("lora_up.weight") for name in load_file(alone / "adapter_lora.safetensors"))
    for stage in ("broad", "identity", "fine"):
        assert (alone / f"{stage}.png").stat().st_size > 1000
        lines = [json.loads(line) for line in (alone / f"{stage}.jsonl").read_text().splitlines()]
        assert all(line["diffusion"] > 0 for line in lines if "diffusion" in line)
    assert "identity" in (alone / "identity.jsonl").read_text()
    assert (alone / "pictures" / "broad-000002.png").stat().st_size > 1000


def two_machines(first: Path) -> list[str]:
    """What the processes print of docs/at-scale.md's torchrun command on two "machines", each with its own folder."""
    second = first.with_name("second.yaml")
    second.write_text(yaml.safe_dump(yaml.safe_load(first.read_text()) | {"out": "second"}))
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    flags = f"--nnodes 2 --nproc-per-node 1 --master-addr 127.0.0.1 --master-port {port}".split()
    torchrun = [sys.executable, "-m", "torch.distributed.run", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    started = {  # the second one first: the results belong to rank 0, not to whoever comes first
        rank: subprocess.Popen(
            [*torchrun, "--node-rank", str(rank), "-m", "facecdm", "train", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        for rank, path in ((1, second), (0, first))
    }
    try:
        said = [started[rank].communicate(timeout=550)[0] for rank in (0, 1)]
    finally:
        for process in started.values():
            process.kill()
    assert [process.returncode for process in started.values()] == [0, 0], "".join(said)[-5000:]
    return said


def test_two_machines_learn_what_one_learns_with_the_double_batch(data_set, face_models, tmp_path):
    plan = {
        "all": {"steps": 2, "batch": 4, "rank": 0, "warmup": 0, "bottleneck": 0.0, "contrast": 0.0},
        "stages": {"identity": {"lora_rank": 2, "identity_below": 1000}, "fine": {"steps": 0}},
    }
    one = write(tmp_path / "one", data_set, face_models, **plan)
    found = "cpu" if torch.cuda.is_available() else None  # a file without a device, where there is none but the CPU
    two = write(tmp_path / "two", data_set, face_models, device=found, **plan)
    command("facecdm", "train", one)
    said = two_machines(two)
    assert all(f"process {rank + 1} of 2" in one for rank, one in enumerate(said))
    assert not list(two.parent.glob("second/*.safetensors")), "the first machine's folder has the results"
    for stage in ("broad", "identity"):
        ours, theirs = (
            [json.loads(line)["gradient"] for line in (path.parent / "run" / f"{stage}.jsonl").open()]
            for path in (one, two)
        )
        assert ours == pytest.approx(theirs, rel=1e-3) and len(ours) == 2
    for name in ("adapter", "adapter_lora"):
        ours, theirs = (load_file(path.parent / "run" / f"{name}.safetensors") for path in (one, two))
        assert ours.keys() == theirs.keys()
        for key, value in ours.items():
            # Adam's first steps have the size of the rate whatever the gradient: rounding shows where it is near 0,
            # in one number of ten thousand.
            difference = (theirs[key] - value).abs()
            assert difference.max() < 1e-4 and (difference > 2e-5 + 1e-3 * value.abs()).float().mean() < 1e-4, key


def test_the_demos_own_controlnet_learns_beside_the_adapter(data_set, face_models, tmp_path):
    plan = {
        "all": {
            "steps": 2,
            "batch": 2,
            "warmup": 0,
            "drop_pose": 0.0,
            "lora_rank": 2,
            "identity": 0.0,
            "train": ["gates", "control"],
        },
        "stages": {"identity": {"steps": 0}, "fine": {"steps": 0}},
    }
    said = command("facecdm", "train", write(tmp_path, data_set, face_models, control="demo", **plan)).stdout
    assert "control lora: " in said and not (tmp_path / "run" / "adapter_lora.safetensors").exists()
    lora = load_file(tmp_path / "run" / "adapter_control_lora.safetensors")
    assert lora and all(name.startswith("control_model.") for name in lora)
    assert any(value.any() for name, value in lora.items() if "lora_up" in name)
    with pytest.raises(AssertionError, match="name the ControlNet as control"):
        command("facecdm", "train", write(tmp_path / "none", data_set, face_models, **plan))


def test_a_training_goes_on_from_an_adapter_and_its_lora(alone, data_set, face_models, tmp_path):
    """A stage that all but stands still leaves both as they were."""
    begin = {"adapter": str(alone / "adapter.safetensors"), "lora": str(alone / "adapter_lora.safetensors")}
    still = {
        "all": {"steps": 1, "batch": 2, "rank": 0, "learning_rate": 1e-12, "weight_decay": 0.0, "identity": 0.0},
        "stages": {"broad": {"steps": 0}, "fine": {"steps": 0}},
    }
    command("facecdm", "train", write(tmp_path, data_set, face_models, **begin, **still))
    for name in ("adapter", "adapter_lora"):
        before, after = (load_file(folder / f"{name}.safetensors") for folder in (alone, tmp_path / "run"))
        assert before.keys() == after.keys()
        assert all(torch.allclose(before[key], after[key], atol=1e-6) for key in before)


def test_what_is_no_lora_of_the_base_is_refused(alone, data_set, face_models, tmp_path):
    path = write(tmp_path, data_set, face_models, lora=str(alone / "adapter.safetensors"))
    with pytest.raises(BadFile, match="holds no LoRA"):
        opened(configuration.read(path))
    other = {"unet_else.lora_down.weight": torch.zeros(2, 4), "unet_else.lora_up.weight": torch.zeros(4, 2)}
    save_file(other, tmp_path / "other.safetensors")
    with pytest.raises(Mismatch, match="another model"):
        opened(configuration.read(write(tmp_path, data_set, face_models, lora="other.safetensors")))


def test_sampling_from_noise_without_positions_is_refused_before_the_first_stage(data_set, face_models, tmp_path):
    path = write(tmp_path, data_set, face_models, stages={"identity": {"few_steps": 2, "few_steps_from": "noise"}})
    with pytest.raises(FaceCDMError, match="conditioned on face location"):  # two people: no positions
        opened(configuration.read(path))


@pytest.mark.parametrize("key", ["spatial_tokens", "places"])
def test_spatial_tokens_are_read_under_their_former_name_too(tmp_path, key):
    path = tmp_path / "train.yaml"
    path.write_text(f"data: x\nout: y\nsizes: {{{key}: false}}\n")
    assert configuration.read(path).sizes.spatial_tokens is False


def test_every_mistake_of_a_file_is_named(tmp_path):
    path = tmp_path / "train.yaml"
    path.write_text("data: x\nout: y\nheld_out: 3\nstepz: 1\n")
    with pytest.raises(BadFile, match=r"(?s)held_out.*stepz"):
        configuration.read(path)
    path.write_text("data: x\nout: y\nall: {stepz: 3}\n")
    with pytest.raises(FaceCDMError, match="unknown setting stepz: a stage has name, steps"):
        configuration.read(path)
    path.write_text("data: x\nout: y\nall: {few_steps: 2, few_steps_learnt: 3}\n")
    with pytest.raises(FaceCDMError, match=r"few_steps_learnt must be in 1 … few_steps \(2\)"):
        configuration.read(path)
    path.write_text("data: x\nout: y\nstages: {middle: {}}\n")
    with pytest.raises(FaceCDMError, match="middle is none of broad, identity, fine"):
        configuration.read(path)
    path.write_text("data: x\nout: y\npreset: two people\n")
    with pytest.raises(FaceCDMError, match="preset must be one of adapter, located adapter, one person"):
        configuration.read(path)


@pytest.mark.parametrize(
    "lines, message",
    [
        ("all: {name: ../x}", "'../x' cannot be the name of a file"),
        ("all: {name: same}", "two stages are named 'same'"),
        ("all: {steps: 0}", "every stage has steps: 0"),
        ("name: ../x", "'../x' cannot be the name of a file"),
        ("out: train.yaml", "out .train.yaml. is a file"),
        ("data: caf\xe9", "is not UTF-8 text"),
        ("all: &all {steps: 2}\nstages: {broad: *all}", "aliases are refused"),
        ("data: " + "[" * 70, "nested more than"),
        ("all: {learning_rate: .inf}", "learning_rate must be a finite number"),
    ],
)
def test_what_would_fail_after_hours_is_refused_when_the_file_is_read(tmp_path, lines, message):
    path = tmp_path / "train.yaml"
    values = {"data": "x", "out": "y"}
    key = lines.partition(":")[0]
    given = [f"{name}: {value}" for name, value in values.items() if name != key]
    path.write_bytes("\n".join([*given, lines]).encode("latin-1"))
    with pytest.raises(FaceCDMError, match=message):
        configuration.read(path)


def test_another_recogniser_than_the_data_sets_is_refused(data_set, face_models, tmp_path):
    other = shutil.copy(face_models / RECOGNISER, tmp_path / "w600k_r50.onnx")
    with pytest.raises(Mismatch, match="embedded by buffalo_s/w600k_mbf.onnx, and the recogniser .*/w600k_r50.onnx"):
        opened(configuration.read(write(tmp_path, data_set, face_models, recogniser=str(other))))


def test_a_users_adapter_is_not_overwritten_unless_asked(alone, data_set, face_models, tmp_path):
    path = write(tmp_path, data_set, face_models, out=str(alone), stages={"fine": {"steps": 7}})
    with pytest.raises(FaceCDMError, match="adapter.safetensors exists and was not made by this training"):
        opened(configuration.read(path))


def test_too_few_people_are_refused_before_the_first_stage(data_set, face_models, tmp_path):
    path = write(tmp_path, data_set, face_models, stages={"identity": {"linear_identity": 1.0}})
    with pytest.raises(FaceCDMError, match="at least 32 people and this one has 2"):
        opened(configuration.read(path))


class Tracker(GeneralTracker):
    """A tracker of accelerate that keeps what it is given."""

    name, requires_logging_directory, tracker = "kept", False, None

    def __init__(self):
        super().__init__()
        self.lines = []

    def store_init_configuration(self, values):
        pass

    def log(self, values, step=None, **_):
        self.lines.append((step, values))


def test_a_tracker_gets_the_losses_and_the_validation_of_every_step_of_all_stages(tmp_path):
    tracker = Tracker()
    stages = [
        STAGE.with_settings(name=name, steps=2, validate_every=2, localisation=0.0, identity=0.0)
        for name in ("broad", "fine")
    ]
    denoiser, data = tiny_denoiser(), TinySource()
    adapter = new_adapter(denoiser, data, face_rank=8, face_tokens=2, image_tokens=2, image_layers=1)
    jobs = [Job(stage, frozenset()) for stage in stages]
    for _ in range(2):  # the second run reads the first stage from its checkpoint
        with _Follow(ALONE, Accelerator(cpu=True, log_with=tracker)) as follow:
            Training(Inputs(denoiser, data, tmp_path, held_out=0.3), jobs, adapter).run(follow)
        (tmp_path / "fine.pt").unlink()
    assert [step for step, _ in tracker.lines] == [1, 2, 3, 4, 3, 4]
    assert all({"diffusion", "gradient"} <= values.keys() for _, values in tracker.lines)
    assert ["validation" in values for _, values in tracker.lines] == [False, True] * 3


def test_the_device_of_a_configuration_counts_with_a_tracker_too():
    config = configuration.Config(data="x", out="y", device="cuda:1")
    alone = Accelerator(cpu=True)
    assert device_of(config, alone) == device_of(config, None) == "cuda:1"
    assert device_of(config.model_copy(update={"device": None}), alone) == "cpu"
    two = SimpleNamespace(num_processes=2, device=torch.device("cuda:0"))
    assert device_of(config, two) == "cuda:0", "each process has a device of its own"
