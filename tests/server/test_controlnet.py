"""Apply FaceCDM to ControlNet in a running ComfyUI: the demo model, its pose ControlNet."""

import io
import shutil

import numpy as np
import pytest

from facecdm.apps.references import FACEWORLD_REFERENCE
from facecdm.demo.weights import default_path


@pytest.fixture(scope="module", autouse=True)
def photo(server):
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")
    shutil.copy(FACEWORLD_REFERENCE, server.base / "input" / "person.webp")


def graph(apply: dict) -> dict:
    """A picture in two steps; node 20 is what is done with the prompts and the ControlNet."""

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    return {
        "1": node("FaceCDMLoadDemoModel"),
        "2": node("CLIPTextEncode", clip=["1", 1], text="a old man, bald"),
        "3": node("CLIPTextEncode", clip=["1", 1], text=""),
        "4": node("LoadImage", image="person.webp"),
        "5": node("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=False),
        "6": node(
            "FaceCDMDetectFaces",
            analyzer=["5", 0],
            image=["4", 0],
            choice="largest",
            index=0,
            min_score=0.5,
            no_face="error",
            crop_size=224,
            crop_margin=0.0,
            mask_grow=1.0,
            mask_feather=0.15,
            detection_size=640,
            search_harder=True,
        ),
        "7": node(
            "FaceCDMNewAdapter", model=["1", 0], face_tokens=4, image_tokens=8, face_rank=16, interplay=True, seed=0
        ),
        "8": node(
            "FaceCDMExtractPose",
            image=["4", 0],
            analyzer=["5", 0],
            detector="face key points",
            people="all",
            min_score=0.5,
            drawing="InstantID 5 points",
            draw_body=True,
            draw_hands=True,
            draw_face=True,
            thickness=1.0,
        ),
        "9": node("FaceCDMLoadDemoPose"),
        "10": node("EmptyLatentImage", width=128, height=128, batch_size=2),
        "20": apply,
        "30": node(
            "KSampler",
            model=["1", 0],
            positive=["20", 0],
            negative=["20", 1],
            latent_image=["10", 0],
            seed=1,
            steps=2,
            cfg=4.0,
            sampler_name="euler",
            scheduler="karras",
            denoise=1.0,
        ),
        "31": node("VAEDecode", samples=["30", 0], vae=["1", 2]),
        "32": node("SaveImage", images=["31", 0], filename_prefix="control"),
    }


PROMPTS = {"positive": ["2", 0], "negative": ["3", 0], "control_net": ["9", 0], "image": ["8", 0]}
CORES = {
    "class_type": "ControlNetApplyAdvanced",
    "inputs": PROMPTS | {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0},
}
OURS = {
    "class_type": "FaceCDMApplyControlNet",
    "inputs": PROMPTS
    | {
        "adapter": ["7", 0],
        "faces": ["6", 0],
        "strength": 1.0,
        "start_at": 0.0,
        "end_at": 1.0,
        "references": "mean",
        "noise": 0.0,
    },
}


def test_the_controlnet_reads_the_face_tokens(server):
    from PIL import Image

    def pictures(apply: dict) -> np.ndarray:
        files = [server.fetch(output) for output in server.run(graph(apply)).images()]
        return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("RGB"), float) for file in files])

    off = OURS | {"inputs": OURS["inputs"] | {"strength": 0.0}}
    face, prompt, neither = pictures(OURS), pictures(CORES), pictures(off)
    assert face.shape == prompt.shape == (2, 128, 128, 3)
    assert np.abs(face - prompt).mean() > 0.02, "face tokens and prompt give different images"
    assert np.abs(face - neither).mean() > 0.5, "the ControlNet acts"
