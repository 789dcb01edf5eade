"""The nodes that train, and FaceCDM Stage Settings: the demo model and six pictures, as the executor runs them."""

import shutil
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path

import pytest
import torch

from facecdm.bases.demo import DEMO
from facecdm.training.stages import Stage

KINDS = ("pt", "png", "jsonl")
QUIET = {"localisation": 0.0, "alignment": 0.0, "background": 0.0, "warmup": 1}


@pytest.fixture(scope="module")
def demo(in_comfy):
    """MODEL, CLIP, VAE, CLIP_VISION of the demo."""
    return in_comfy.run("FaceCDMLoadDemoModel")


@pytest.fixture(scope="module")
def analyzer(in_comfy):
    return in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="auto", landmarks=False)[0]


@pytest.fixture(scope="module")
def data(in_comfy, demo, analyzer, faceworld_val):
    """Two people, three views each."""
    for person in ("0005", "0006"):
        shutil.copytree(faceworld_val / person, in_comfy.base / "input" / "people" / person)
    model, clip, vae, vision = demo
    inputs = {
        one.id: getattr(one, "default", None)
        for one in in_comfy.nodes["FaceCDMPrepareDataSet"].GET_SCHEMA().inputs
        if not one.optional
    }
    inputs |= {"model": model, "clip": clip, "vae": vae, "analyzer": analyzer, "folder": "people", "name": "people"}
    return in_comfy.run("FaceCDMPrepareDataSet", clip_vision=vision, **inputs)[0]


@pytest.fixture(scope="module")
def adapter(in_comfy, demo):
    return in_comfy.run(
        "FaceCDMNewAdapter",
        model=demo[0],
        clip_vision=demo[3],
        face_tokens=2,
        image_tokens=2,
        face_rank=8,
        interplay=True,
        seed=0,
    )[0]


@pytest.fixture(scope="module")
def train(in_comfy, demo, adapter, data):
    """Train FaceCDM Stage with little to do; more inputs by name."""

    def run(stage: str = "1 broad", settings: dict | None = None, **inputs):
        usual = {
            "model": demo[0],
            "adapter": adapter,
            "data_set": data,
            "run": "test",
            "preset": "one person",
            "steps": 2,
            "batch": 1,
            "seed": 0,
        }
        return in_comfy.run("FaceCDMTrainStage", stage=stage, settings=QUIET | (settings or {}), **usual | inputs)

    return run


def folder(in_comfy):
    return in_comfy.base / "output" / "facecdm_training"


# ---- FaceCDM Stage Settings ----


def settings_of(in_comfy, **values) -> dict:
    inputs = {
        one.id: one.default for one in in_comfy.nodes["FaceCDMStageSettings"].GET_SCHEMA().inputs if not one.optional
    }
    return in_comfy.run("FaceCDMStageSettings", **inputs | values)[0]


def test_only_what_is_set_leaves_the_preset(in_comfy):
    assert settings_of(in_comfy) == {}
    chosen = settings_of(
        in_comfy,
        learning_rate=3e-6,
        warmup=0,
        checkpointing="on",
        schedule="linear",
        train="gates, kappa",
        settings={"warmup": 9, "rank": 4},
    )
    assert chosen == {
        "learning_rate": 3e-6,
        "warmup": 0,
        "checkpointing": True,
        "schedule": "linear",
        "train": ("gates", "kappa"),
        "rank": 4,
    }
    stage = Stage().with_settings(**chosen)
    assert (stage.learning_rate, stage.checkpointing, stage.train) == (3e-6, True, ("gates", "kappa"))


def test_every_number_of_a_stage_can_be_set(in_comfy):
    offered = {one.id for one in in_comfy.nodes["FaceCDMStageSettings"].GET_SCHEMA().inputs}
    assert {field.name for field in fields(Stage)} - {"name", "seed"} == offered - {"settings"}


@pytest.mark.parametrize("name", ["schedule", "precision", "few_steps_from", "identity_toward", "train"])
def test_unknown_values_are_refused(in_comfy, name):
    """A widget's value is checked by core, a connected one here."""
    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match=name):
        settings_of(in_comfy, **{name: "gates, all"})
    assert "train must name" in in_comfy.nodes["FaceCDMStageSettings"].validate_inputs(train="gates, all")


def test_shares_beyond_one_are_refused(in_comfy):
    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="drop_face"):
        settings_of(in_comfy, drop_face=1.5)


# ---- Train Stage ----


@pytest.mark.parametrize("node_id", ["FaceCDMTrain", "FaceCDMTrainStage"])
def test_runs_stay_in_their_folder(in_comfy, node_id):
    check = in_comfy.nodes[node_id].validate_inputs
    assert check("a run") is True and check() is True
    assert all("cannot be the name" in check(name) for name in ("../else", "con", "a/b"))


@contextmanager
def progress_to(report):
    """ComfyUI's progress goes to `report(value, total, preview)`, as to its server."""
    import comfy.utils

    before = comfy.utils.PROGRESS_BAR_HOOK
    comfy.utils.set_progress_bar_global_hook(lambda value, total, preview, node_id=None: report(value, total, preview))
    try:
        yield
    finally:
        comfy.utils.set_progress_bar_global_hook(before)


def test_the_first_stage_teaches_the_adapter(in_comfy, demo, adapter, data, train):
    before, reports = {name: value.clone() for name, value in adapter.state_dict().items()}, []
    with progress_to(lambda *what: reports.append(what)):
        trained, lora, losses, plot, pictures, report, control = train(settings={"validate_every": 1}, vae=demo[2])
    assert [what[:2] for what in reports] == [(1, 2), (2, 2)]
    kind, preview, _ = reports[0][2]
    size = (2 * DEMO.resolution, DEMO.resolution)
    assert kind == "JPEG" and preview.size == reports[1][2][1].size == size
    assert trained.config.recogniser == data.recogniser and not trained.streams["face"].gate.is_zero
    assert not any(value.is_inference() for value in trained.parameters())
    assert all(torch.equal(value, before[name]) for name, value in adapter.state_dict().items())
    assert lora == control == {} and len(losses["loss"]) == 2 and all(0 < loss < 10 for loss in losses["loss"])
    assert plot.shape[-1] == 3 and pictures.shape == (2, *size[1:] * 2, 3) and pictures.std() > 0.02
    assert "2 of 2 steps" in report and "fp32 on cpu" in report and str(folder(in_comfy)) in report


def test_many_tokens_with_little_content_learn(in_comfy, demo, train):
    new = in_comfy.run(
        "FaceCDMNewAdapter",
        model=demo[0],
        clip_vision=demo[3],
        face_tokens=100,
        image_tokens=2,
        face_rank=8,
        interplay=True,
        seed=0,
    )[0]
    trained = train(adapter=new, run="many", settings={"learning_rate": 1e-3})[0]
    for part in ("uplift.weight", "spread.weight", "place"):
        name = f"face_projector.{part}"
        assert trained.config.face_content and not torch.equal(trained.state_dict()[name], new.state_dict()[name]), name


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_the_lora_is_what_core_loads(in_comfy, demo, data, train, layers):
    """The U-Net with the LoRA in its layers, as trained, and with core's loader: the same prediction."""
    import comfy.sd

    host, lora_class = (
        in_comfy.module("facecdm.hosts.comfy.training.denoiser"),
        in_comfy.module("facecdm.training.lora").Lora,
    )
    _, lora, *_ = train(
        "2 identity", {"identity": 0.0, "learning_rate": 0.02, "lora_layers": layers}, run=f"lora of {layers}"
    )
    assert len(lora) % 3 == 0 and lora and any(value.dim() == 4 for value in lora.values()) == (layers == "all")
    patched = comfy.sd.load_lora_for_models(demo[0], None, lora, 1.0, 0)[0]
    assert len(patched.patches) == len(lora) // 3
    rows, t = data.load([0]), torch.tensor([500])
    noisy = torch.randn(rows.latents.shape, generator=torch.Generator().manual_seed(0))
    predictions = {}
    for name, model, parts in (("trained", demo[0], lora), ("loaded", patched, {}), ("plain", demo[0], {})):
        with host.ComfyDenoiser(model) as denoiser, lora_class.from_tensors(parts).on(denoiser.layers()):
            predictions[name] = denoiser.predict(noisy, t, rows.prompt).detach()
    change = (predictions["trained"] - predictions["plain"]).abs().max()
    assert change > 1e-3
    torch.testing.assert_close(predictions["loaded"], predictions["trained"], rtol=0, atol=1e-4)


def test_the_controlnets_lora_learns_and_is_applied(in_comfy, demo, adapter, analyzer, train):
    """The demo's own pose ControlNet, the LoRA from the socket and from a file."""
    from safetensors.torch import save_file

    host, errors = in_comfy.module("facecdm.hosts.comfy.training.denoiser"), in_comfy.module("facecdm.errors")
    inputs = {
        one.id: getattr(one, "default", None)
        for one in in_comfy.nodes["FaceCDMPrepareDataSet"].GET_SCHEMA().inputs
        if not one.optional
    }
    inputs |= {
        "model": demo[0],
        "clip": demo[1],
        "vae": demo[2],
        "analyzer": analyzer,
        "folder": "people",
        "name": "posed",
        "pose": "openpose",
    }
    posed = in_comfy.run("FaceCDMPrepareDataSet", clip_vision=demo[3], **inputs)[0]
    net = in_comfy.run("FaceCDMLoadDemoPose")[0]
    settings = {"train": ("control",), "drop_pose": 0.0, "learning_rate": 0.02, "lora_rank": 2, "validate_every": 1}
    _, lora, _, _, pictures, _, control = train(
        settings=settings, data_set=posed, control_net=net, vae=demo[2], run="controlled"
    )
    freely = train(settings={"validate_every": 1}, data_set=posed, vae=demo[2], run="free")[4]
    assert pictures.shape == freely.shape and (pictures - freely).abs().mean() > 0.02, "previews have their own poses"
    assert control and not lora and all(name.startswith("control_model.") for name in control)
    (in_comfy.base / "models" / "loras").mkdir(parents=True, exist_ok=True)
    save_file(control, in_comfy.base / "models" / "loras" / "posed.safetensors")

    def apply(strength=1.0, file="none", **more):
        return in_comfy.run("FaceCDMApplyControlLora", control_net=net, strength=strength, file=file, **more)[0]

    rows, found = posed.load([0]), {}
    for name, given in (
        ("plain", net),
        ("socket", apply(control_lora=control)),
        ("file", apply(file="posed.safetensors")),
        ("twice", apply(2.0, control_lora=control)),
    ):
        with host.ComfyDenoiser(demo[0], control=given) as denoiser, torch.no_grad():
            noisy = torch.randn(rows.latents.shape, generator=torch.Generator().manual_seed(0))
            found[name] = denoiser.predict(noisy, torch.tensor([500]), rows.prompt, control=rows.control)
    assert torch.equal(found["socket"], found["file"]) and (found["socket"] - found["plain"]).abs().max() > 1e-3
    assert (found["twice"] - found["plain"]).norm() > 1.2 * (found["socket"] - found["plain"]).norm()
    assert apply(0.0, control_lora=control) is net
    both = {"control_net": net, "strength": 1.0, "file": "posed.safetensors", "control_lora": control}
    shown = in_comfy.node_output("FaceCDMApplyControlLora", **both).ui["facecdm_warnings"]
    assert len(shown) == 1 and "file (posed.safetensors) is not read" in shown[0]
    with pytest.raises(errors.FaceCDMError, match="no LoRA is given"):
        apply()
    with pytest.raises(errors.FaceCDMError, match="trains the LoRA of a ControlNet"):
        train(settings=settings, data_set=posed, run="no net")


def test_an_interrupt_keeps_what_was_learnt(in_comfy, train):
    import comfy.model_management as management

    whole, *_ = train(run="whole", steps=4)
    with (
        progress_to(lambda *_: management.interrupt_current_processing()),  # newer ones skip some reports
        pytest.raises(management.InterruptProcessingException),
    ):
        train(run="stopped", steps=4)
    assert (folder(in_comfy) / "stopped" / "broad.pt").is_file()
    went_on, *_, report, _ = train(run="stopped", steps=4)
    assert "resumed at step 1)" in report
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in went_on.state_dict().items())
    with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="learning_rate was"):
        train(run="stopped", steps=4, settings={"learning_rate": 1.0})


def test_what_is_not_connected_is_left_out_and_reported(in_comfy, demo, analyzer, train):
    _, lora, *_, report, _ = train("2 identity", run="alone", steps=1)
    assert "no identity loss: the identity loss needs a face recogniser" in report and "and a VAE" in report and lora
    error = in_comfy.module("facecdm.errors")
    with pytest.raises(error.FaceCDMError, match="needs a VAE"):
        train("2 identity", {"identity": 0.2}, run="asked", face_analyzer=analyzer)


@pytest.mark.parametrize("node_id", ["FaceCDMTrain", "FaceCDMTrainStage"])
def test_what_has_no_effect_is_shown_on_the_node(in_comfy, demo, adapter, data, node_id):
    own = {"length": 0.0001} if node_id == "FaceCDMTrain" else {"stage": "2 identity", "steps": 1}
    net = in_comfy.run("FaceCDMLoadDemoPose")[0]
    inputs = {"model": demo[0], "adapter": adapter, "data_set": data, "preset": "one person", "batch": 1, "seed": 0}
    settings = QUIET | {"noise_low": 300, "noise_share": 0.0}
    shown = in_comfy.node_output(node_id, **inputs, **own, run=node_id, control_net=net, settings=settings)
    wanted = ("no identity loss", "no preview pictures", "the ControlNet is not used", "noise_low and noise_high")
    assert [sum(text in one for one in shown.ui["facecdm_warnings"]) for text in wanted] == [1, 1, 1, 1]
    assert shown.ui["images"], "beside the loss plot"


def test_an_adapter_of_another_base_is_refused(in_comfy, sd15, make_adapter, train):
    with pytest.raises(in_comfy.module("facecdm.errors").Mismatch, match="New FaceCDM Adapter"):
        train(adapter=make_adapter(sd15))


# ---- Train ----


def test_train_runs_the_three_stages(in_comfy, demo, adapter, data, analyzer):
    trained, lora, losses, _, pictures, report, _ = in_comfy.run(
        "FaceCDMTrain",
        model=demo[0],
        adapter=adapter,
        data_set=data,
        run="three",
        preset="one person",
        length=0.0001,
        batch=1,
        seed=0,
        vae=demo[2],
        face_analyzer=analyzer,
        settings={"identity_below": 1000, "warmup": 1},
        settings_1={"steps": 2},
    )
    assert [
        f"stage {name}: {steps} of {steps} steps" in report
        for name, steps in (("broad", 2), ("identity", 1), ("fine", 1))
    ] == [True] * 3
    assert len(losses["loss"]) == 4 and lora and len(pictures) == 2
    assert report.count("\nidentity: ") == 2  # the loss, in the second stage and in the third
    left = {path.name for path in (folder(in_comfy) / "three").iterdir()}
    assert left == {"pictures"} | {f"{name}.{kind}" for name in ("broad", "identity", "fine") for kind in KINDS}


@pytest.mark.parametrize("knots", [1, 8])
def test_only_an_adapter_with_constant_gates_is_exported_after_its_training(in_comfy, demo, data, knots):
    inputs = in_comfy.nodes["FaceCDMNewAdapter"].GET_SCHEMA().inputs
    defaults = {one.id: one.default for one in inputs if hasattr(one, "default")}
    new = in_comfy.run("FaceCDMNewAdapter", model=demo[0], **defaults | {"knots": knots})[0]
    trained = in_comfy.run(
        "FaceCDMTrain",
        model=demo[0],
        adapter=new,
        data_set=data,
        run=f"{knots} knots",
        preset="one person",
        length=0.0001,
        batch=1,
        seed=0,
    )[0]
    given = {"adapter": trained, "name": "of one knot", "overwrite": True}
    if knots > 1:
        with pytest.raises(in_comfy.module("facecdm.errors").FaceCDMError, match="knots at 1"):
            in_comfy.run("FaceCDMExportAdapter", **given)
        return
    path, report = in_comfy.run("FaceCDMExportAdapter", **given)
    assert report.startswith("FaceID for")
    read = in_comfy.module("facecdm.formats.imported").load_any(Path(path))
    assert all(layer.weight.abs().max() > 0 for layer in read.streams["face"].to_v)
