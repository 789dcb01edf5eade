"""Pictures, masks, faces and poses that another node can give: each node returns finite results or a typed error."""

import math
import os
import random
import time
from dataclasses import replace

import pytest
import torch

ALL = os.environ.get("FACECDM_CORPUS") == "all"
SAMPLE = 8  # cases of an input
SECONDS = 10  # of the processor, for one call


@pytest.fixture(scope="module")
def calls(in_comfy, faceworld_val, sd15, adapter, vision, make_faces):
    """Node id → inputs that work, beside the defaults."""
    import numpy as np
    from PIL import Image

    if not in_comfy.module("facecdm.demo.weights").default_path().is_file():
        pytest.skip("no demo weights")
    model, clip, vae, demo_vision = in_comfy.run("FaceCDMLoadDemoModel")
    demo_adapter = in_comfy.run("FaceCDMLoadDemoAdapter", model=model)[1]
    pose_net = in_comfy.run("FaceCDMLoadDemoPose")[0]
    analyzer = in_comfy.run("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=True)[0]
    pixels = np.asarray(Image.open(faceworld_val / "0005" / "00.webp").convert("RGB"), np.float32) / 255
    image, mask = torch.from_numpy(pixels)[None], torch.rand(1, 40, 32)
    with torch.inference_mode():
        words = clip.encode_from_tokens_scheduled(clip.tokenize("a young man"))
    faces = in_comfy.run("FaceCDMDetectFaces", **given(in_comfy, "FaceCDMDetectFaces", analyzer=analyzer, image=image))[
        0
    ]
    pose = in_comfy.run("FaceCDMExtractPose", **given(in_comfy, "FaceCDMExtractPose", analyzer=analyzer, image=image))
    known = {"analyzer": analyzer, "image": image, "vae": vae, "positive": words, "negative": words, "clip": clip}
    net = {**known, "faces": faces, "mask": mask, "adapter": demo_adapter, "control_net": pose_net}
    small = {"model": sd15, "adapter": adapter, "clip_vision": vision}
    person = {**small, "faces": make_faces(2), "image": image, "mask": mask}
    return {
        "FaceCDMDetectFaces": {"analyzer": analyzer, "image": image},
        "FaceCDMExtractPose": {"analyzer": analyzer, "image": image},
        "FaceCDMEditPose": {"pose": pose[1], "onto": image},
        "FaceCDMApply": person,
        "FaceCDMApplyOptions": {"negative_image": image},
        "FaceCDMApplyControlNet": net,
        "FaceCDMPersonRegions": {"faces": make_faces(2), "layout": image},
        "FaceCDMApplyPeople": {**small, "masks": mask, "faces_1": make_faces(1), "image_1": image},
        "FaceCDMDetailFaces": {**known, "model": model, "steps": 1, "guide_size": 64},
        "FaceCDMPrepareDataSet": {**known, "model": model, "images": image, "folder": "(the images input)"},
        "FaceCDMEvaluateIdentity": {"images": image, "reference": image, "analyzer": analyzer, "held_out": image},
        "FaceCDMSaveFaces": {"faces": faces},
        "FaceCDMCombineFaces": {"faces_1": faces, "faces_2": faces},
        "FaceCDMCompareFaces": {"faces_a": faces, "faces_b": faces, "baseline": faces},
    }  # fmt: skip


def given(in_comfy, node_id: str, **chosen) -> dict:
    """Defaults of the inputs with a widget, and the chosen ones that the node has."""
    entries = {entry.id: entry for entry in in_comfy.nodes[node_id].define_schema().inputs}
    known = {
        name: entry.options[0] if entry.get_io_type() == "COMBO" else entry.default
        for name, entry in entries.items()
        if getattr(entry, "default", None) is not None or entry.get_io_type() == "COMBO"
    }
    return known | {name: value for name, value in chosen.items() if name in entries}


def pictures(good: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pictures [B, H, W, C] of unusual shapes, types and values."""
    one = good[:1]
    return {
        "grey": one[..., :1],
        "RGBA": torch.cat([one, one[..., :1]], -1),
        "two channels": one[..., :2],
        "wide": torch.rand(1, 8, 16384, 3),
        "tall": torch.rand(1, 16384, 8, 3),
        "narrow": torch.rand(1, 3, 200, 3),
        "one pixel": one[:, :1, :1],
        "empty": one[:0],
        "no rows": one[:, :0],
        "no channels": one[..., :0],
        "no batch": one[0],
        "NaN": one * math.nan,
        "infinity": one + math.inf,
        "huge": one * 1e38,
        "float16": one.half(),
        "uint8": (one * 255).to(torch.uint8),
    }


def masks(good: torch.Tensor) -> dict[str, torch.Tensor]:
    """Masks [B, H, W] of unusual shapes, types and values."""
    one = good[:1]
    return {
        "no batch": one[0],
        "wide": torch.rand(1, 8, 16384),
        "narrow": torch.rand(1, 3, 200),
        "one pixel": one[:, :1, :1],
        "empty": one[:0],
        "no rows": one[:, :0],
        "channel": one[:, None],
        "NaN": one * math.nan,
        "infinity": one + math.inf,
        "huge": one * 1e38,
        "whole numbers": one.long(),
        "switches": one > 0.5,
    }


def people(good) -> dict:
    """Functions that make FACES of other widths, recognisers and values. Some raise a typed error."""
    first = good.faces[0]

    def changed(**parts):
        return lambda: replace(good, faces=(replace(first, **parts),))

    return {
        "narrower": changed(embedding=torch.randn(16)),
        "wider": changed(embedding=torch.randn(4096)),
        "mixed widths": lambda: replace(good, faces=(first, replace(first, embedding=torch.randn(16)))),
        "NaN": changed(embedding=first.embedding * math.nan),
        "zero": changed(embedding=first.embedding * 0),
        "huge": changed(embedding=first.embedding * 1e38),
        "another recogniser": lambda: replace(good, recogniser="x/y.onnx"),
        "none": lambda: replace(good, faces=()),
        "far away": changed(keypoints=torch.full((5, 2), 1e9), box=torch.full((4,), 1e9)),
        "NaN points": changed(keypoints=torch.full((5, 2), math.nan), box=torch.full((4,), math.nan)),
        "one point": changed(keypoints=torch.full((5, 2), 3.0), box=torch.full((4,), 3.0)),
        "no crop": changed(crop=torch.zeros(0, 0, 3)),
        "index of a billion": changed(image_index=10**9),
        "negative index": changed(image_index=-1),
    }


def poses(good: list) -> dict[str, object]:
    """POSE_KEYPOINT as other packs may write it."""

    def person(points) -> list:
        return [{"people": [{"pose_keypoints_2d": points}], "canvas_width": 64, "canvas_height": 64}]

    return {
        "none": [],
        "empty": [{}],
        "nobody": [{"people": [], "canvas_width": 64, "canvas_height": 64}],
        "NaN": person([math.nan] * 54),
        "infinity": person([math.inf] * 54),
        "huge": person([1e300] * 54),
        "a few": person([1.0] * 7),
        "text": person("x"),
        "no canvas": [{"people": [{"pose_keypoints_2d": [1.0] * 54}]}],
        "canvas of a billion": [dict(good[0], canvas_width=10**9, canvas_height=10**9)],
        "canvas of nothing": [dict(good[0], canvas_width=0, canvas_height=-1)],
        "canvas of NaN": [dict(good[0], canvas_width=math.nan, canvas_height=math.nan)],
        "deep": person([[[[1.0]]]]),
        "a number": 7,
        "a dict": good[0],
    }


CHANGES = {"IMAGE": pictures, "MASK": masks, "FACES": people, "POSE_KEYPOINT": poses}


def wrong_numbers(values) -> bool:
    """Whether a tensor among the results holds NaN or infinity."""
    return any(isinstance(v, torch.Tensor) and v.is_floating_point() and not v.isfinite().all() for v in values)


def outcome(in_comfy, node_id: str, inputs: dict, **changed) -> str:
    """ "" where the call goes as it must, else what goes wrong. `changed` values may be functions that make them."""
    started = time.process_time()
    try:
        made = {name: value() if callable(value) else value for name, value in changed.items()}
        result = in_comfy.run(node_id, **inputs | made)
    except in_comfy.module("facecdm.errors").FaceCDMError as error:
        text = f"{len(str(error))} characters" if len(str(error)) > 1000 else ""
    except Exception as error:
        text = f"untyped {type(error).__name__}: {str(error)[:150]}"
    else:
        text = "NaN or infinity in the result" if wrong_numbers(result) else ""
    seconds = time.process_time() - started
    return text or (f"{seconds:.0f} s" if seconds > SECONDS else "")


NODES = (
    "DetectFaces ExtractPose EditPose Apply ApplyOptions ApplyControlNet PersonRegions ApplyPeople DetailFaces "
    "PrepareDataSet EvaluateIdentity SaveFaces CombineFaces CompareFaces"
)


@pytest.mark.parametrize("name", NODES.split())
def test_every_picture_mask_face_and_pose(in_comfy, calls, name):
    node_id, torch_state = f"FaceCDM{name}", torch.get_rng_state()
    inputs = given(in_comfy, node_id, **calls[node_id])
    assert not outcome(in_comfy, node_id, inputs)
    kinds = {entry.id: entry.get_io_type() for entry in in_comfy.nodes[node_id].define_schema().inputs}
    wrong, count = {}, 0
    for socket in inputs:
        cases = list(CHANGES.get(kinds[socket], lambda good: {})(inputs[socket]).items())
        for case, value in cases if ALL else random.Random(socket).sample(cases, min(SAMPLE, len(cases))):
            count += 1
            if text := outcome(in_comfy, node_id, inputs, **{socket: value}):
                wrong[socket, case] = text
    torch.set_rng_state(torch_state)
    assert count and not wrong, f"{len(wrong)} of {count}: {wrong}"
