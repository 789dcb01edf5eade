"""A training on a real server: interrupted, resumed, and its LoRA saved and loaded by core's own nodes."""

import asyncio
import io
import shutil

import numpy as np
import pytest

from facecdm.comfy_api.client import Client
from facecdm.comfy_api.errors import JobInterrupted
from facecdm.comfy_api.workflow import Workflow

STEPS = 8


@pytest.fixture(scope="module")
def people(server, faceworld_val) -> str:
    for person in ("0005", "0006"):
        shutil.copytree(faceworld_val / person, server.base / "input" / "few people" / person)
    return "few people"


@pytest.fixture(scope="module")
def node(server):
    """node(class, **inputs): an API node; required inputs that are not given have their default."""

    async def get_object_info():
        async with Client(server.address) as client:
            return await client.object_info()

    offered = asyncio.run(get_object_info())

    def make(kind: str, **inputs) -> dict:
        usual = {}
        for name, (type_, *options) in offered[kind]["input"]["required"].items():
            options = options[0] if options else {}
            choices = type_ if isinstance(type_, list) else options.get("options", [None])
            usual[name] = options.get("default", choices[0])
        return {"class_type": kind, "inputs": {k: v for k, v in usual.items() if v is not None} | inputs}

    return make


@pytest.fixture(scope="module")
def graph(node, people) -> dict:
    """Demo model, data set, new adapter, the second stage."""
    return {
        "demo": node("FaceCDMLoadDemoModel"),
        "analyzer": node("FaceCDMLoadFaceAnalyzer", pack="buffalo_s"),
        "data": node(
            "FaceCDMPrepareDataSet",
            model=["demo", 0],
            clip=["demo", 1],
            vae=["demo", 2],
            analyzer=["analyzer", 0],
            clip_vision=["demo", 3],
            folder=people,
            name="few people",
        ),
        "new": node("FaceCDMNewAdapter", model=["demo", 0], clip_vision=["demo", 3], face_tokens=2, image_tokens=2),
        "settings": node("FaceCDMStageSettings", learning_rate=0.02, warmup=1, alignment=0, localisation=0),
        "train": node(
            "FaceCDMTrainStage",
            model=["demo", 0],
            adapter=["new", 0],
            data_set=["data", 0],
            settings=["settings", 0],
            stage="2 identity",
            steps=STEPS,
            batch=1,
            run="server",
            vae=["demo", 2],
            face_analyzer=["analyzer", 0],
        ),
        "report": node("PreviewAny", source=["train", 5]),
    }


def sampled(graph: dict, model: list) -> dict:
    return graph | {
        "prompt": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["demo", 1], "text": "a young woman, smiling"}},
        "latent": {"class_type": "EmptyLatentImage", "inputs": {"width": 128, "height": 128, "batch_size": 1}},
        "sample": {
            "class_type": "KSampler",
            "inputs": {
                "model": model,
                "positive": ["prompt", 0],
                "negative": ["prompt", 0],
                "latent_image": ["latent", 0],
                "seed": 1,
                "steps": 4,
                "cfg": 1.0,
                "sampler_name": "euler",
                "scheduler": "karras",
                "denoise": 1.0,
            },
        },
        "decode": {"class_type": "VAEDecode", "inputs": {"samples": ["sample", 0], "vae": ["demo", 2]}},
        "save": {"class_type": "SaveImage", "inputs": {"images": ["decode", 0], "filename_prefix": "training"}},
    }


def picture(server, finished) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(server.fetch(finished.images("save")[0]))), dtype=np.int16)


def interrupt_at(server, graph: dict, step: int) -> None:
    """Queue, and interrupt when the training node has reached `step`."""

    async def job():
        async with Client(server.address) as client:
            prompt = await client.submit(Workflow.parse(graph))
            reached = asyncio.Event()

            def on_progress(progress) -> None:
                if progress.node == "train" and progress.value >= step:
                    reached.set()

            waiting = asyncio.create_task(client.wait(prompt, on_progress))
            await asyncio.wait({asyncio.create_task(reached.wait()), waiting}, return_when="FIRST_COMPLETED")
            await client.interrupt()
            return await waiting

    with pytest.raises(JobInterrupted):
        asyncio.run(job())


def test_interrupted_and_resumed_and_its_lora_loaded_by_core(server, graph, node):
    interrupt_at(server, graph, 3)
    state = server.base / "output" / "facecdm_training" / "server" / "identity.pt"
    assert state.is_file()

    trained = sampled(graph, ["load", 0]) | {
        "load": node("LoraModelLoader", model=["demo", 0], lora=["train", 1], strength_model=1.0),
        "keep": {"class_type": "SaveLoRA", "inputs": {"lora": ["train", 1], "prefix": "loras/facecdm"}},
    }
    done = server.run(trained)
    report = "".join(done.ui["report"]["text"])
    assert f"{STEPS} of {STEPS} steps (resumed at step " in report
    with_lora = picture(server, done)

    file = next((server.base / "output" / "loras").glob("facecdm*.safetensors"))
    from_file = sampled({"demo": graph["demo"]}, ["load", 0]) | {
        "load": {
            "class_type": "LoraLoaderModelOnly",
            "inputs": {"model": ["demo", 0], "lora_name": file.name, "strength_model": 1.0},
        }
    }
    plain = sampled({"demo": graph["demo"]}, ["demo", 0])
    without = picture(server, server.run(plain))
    assert np.array_equal(picture(server, server.run(from_file)), with_lora)
    assert np.abs(with_lora - without).mean() > 1
