"""The demo model in a running ComfyUI, with the weights that come with the pack."""

import io

import numpy as np
import pytest

from facecdm.bases.demo import DEMO
from facecdm.demo.weights import default_path

SIDE = DEMO.resolution
PROMPT = "a young woman, long red hair, smiling, green shirt, plain blue background"


def graph(seed: int) -> dict:
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    return {
        "1": node("FaceCDMLoadDemoModel"),
        "2": node("CLIPTextEncode", clip=["1", 1], text=PROMPT),
        "3": node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": node("EmptyLatentImage", width=SIDE, height=SIDE, batch_size=4),
        "5": node(
            "KSampler",
            model=["1", 0],
            positive=["2", 0],
            negative=["3", 0],
            latent_image=["4", 0],
            seed=seed,
            steps=20,
            cfg=4.0,
            sampler_name="euler",
            scheduler="karras",
            denoise=1.0,
        ),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="demo"),
    }


@pytest.fixture
def weights():
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")


def test_a_prompt_becomes_a_picture(weights, server):
    from PIL import Image

    done = server.run(graph(1))
    files = [Image.open(io.BytesIO(server.fetch(output))).convert("RGB") for output in done.images()]
    pictures = np.stack([np.asarray(file) for file in files]).astype(float)
    assert pictures.shape == (4, SIDE, SIDE, 3)
    corners = np.median(pictures[:, : SIDE // 10, : SIDE // 10].reshape(4, -1, 3), axis=1)
    assert (corners.argmax(1) == 2).sum() >= 3, f"the backgrounds are blue: {corners}"


def test_the_model_is_loaded_once(weights, server):
    server.run(graph(2))
    before = server.log.read_text(errors="replace").count("model_type V_PREDICTION")
    server.run(graph(3))
    assert server.log.read_text(errors="replace").count("model_type V_PREDICTION") == before >= 1
