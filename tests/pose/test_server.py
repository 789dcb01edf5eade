"""Poses in a running ComfyUI: found, edited and drawn by a graph, and read by the sockets' own types."""

import io

import numpy as np
import pytest
from PIL import Image

DRAWING = {"drawing": "OpenPose", "draw_body": True, "draw_hands": True, "draw_face": True, "thickness": 1.0}


@pytest.mark.slow
def test_a_graph_that_extracts_and_edits(server, faceworld_val):
    nodes = {
        "1": {"class_type": "LoadImage", "inputs": {"image": server.upload(faceworld_val / "0005" / "00.webp")}},
        "2": {"class_type": "FaceCDMLoadFaceAnalyzer",
              "inputs": {"pack": "buffalo_s", "provider": "CPU", "landmarks": True}},
        "3": {"class_type": "FaceCDMExtractPose",
              "inputs": {"image": ["1", 0], "analyzer": ["2", 0], "detector": "face key points", "people": "all",
                         "min_score": 0.5, **DRAWING}},
        "4": {"class_type": "FaceCDMEditPose",
              "inputs": {"pose": ["3", 1], "turn_yaw": ["3", 2], "turn_pitch": 0.0, "turn_roll": 0.0, "mirror": True,
                         "scale": 1.0, "move_right": 0.0, "move_down": 0.0, "width": 320, "height": 256,
                         "fit": "fit inside", **DRAWING}},
        "5": {"class_type": "SaveImage", "inputs": {"images": ["4", 0], "filename_prefix": "pose"}},
        "6": {"class_type": "PreviewAny", "inputs": {"source": ["3", 5]}},
    }  # fmt: skip
    done = server.run(nodes)
    assert "1 person" in done.ui["6"]["text"][0] and "yaw +" in done.ui["6"]["text"][0]
    (saved,) = done.images("5")
    picture = np.asarray(Image.open(io.BytesIO(server.fetch(saved))).convert("RGB"))
    assert picture.shape == (256, 320, 3) and (picture == 255).all(2).sum() > 70  # white dots of the face
    assert (picture.max(2) == 0).mean() > 0.8
