"""Errors and warnings as the server sends them: one error for each mistake, and each warning on its node."""

import asyncio
import json
import uuid
from collections import Counter
from dataclasses import replace

import aiohttp
import pytest
from PIL import Image

from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import load_adapter, save_adapter
from facecdm.apps.portrait import WORKFLOW
from facecdm.apps.references import copy_examples
from facecdm.comfy_api.workflow import Workflow
from facecdm.demo.paths import ADAPTER
from facecdm.demo.weights import default_path
from facecdm.node_warnings import WARNINGS

OWN_MODELS = [
    path for path in sorted(WORKFLOW.parent.glob("*.json")) if "CheckpointLoaderSimple" in path.read_text("utf-8")
]


def queue(server, nodes: dict) -> tuple[dict, list[dict]]:
    """Return (/prompt's answer, the messages of the web socket until the workflow ended)."""

    async def main():
        client = uuid.uuid4().hex
        messages = []
        async with (
            aiohttp.ClientSession(f"http://{server.address}") as session,
            session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as socket,
        ):
            async with session.post("/prompt", json={"prompt": nodes, "client_id": client}) as response:
                answer = await response.json()
            ended = bool(answer.get("node_errors"))
            while not ended:
                message = await socket.receive(timeout=300)
                if message.type == aiohttp.WSMsgType.TEXT:
                    messages.append(json.loads(message.data))
                    ended = messages[-1]["type"] in ("execution_success", "execution_error")
            return answer, messages

    return asyncio.run(main())


def errors(answer: dict) -> Counter:
    """How often each input is named, by the node's id, its class and the input."""
    return Counter(
        (node_id, node["class_type"], error["extra_info"]["input_name"])
        for node_id, node in answer["node_errors"].items()
        for error in node["errors"]
    )


def shown(server, nodes: dict) -> list[tuple[str, str]]:
    """(a node's class, text) of every warning that the page shows."""
    answer, messages = queue(server, nodes)
    assert messages and messages[-1]["type"] == "execution_success", (answer, messages[-1:])
    found = []
    for data in (message["data"] for message in messages if message["type"] in (WARNINGS, "executed")):
        texts = data.get("warnings") or (data.get("output") or {}).get(WARNINGS) or ()
        found += [(nodes[data["node"]]["class_type"], text) for text in texts]
    return found


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


# ---- errors ----


@pytest.mark.parametrize("workflow", OWN_MODELS, ids=lambda path: path.stem)
def test_one_missing_file_is_one_error(server, workflow):
    found = errors(queue(server, Workflow.load(workflow).nodes)[0])
    assert set(found.values()) == {1} and len(found) >= 3, found
    assert {"CheckpointLoaderSimple", "FaceCDMLoadFaceAnalyzer", "FaceCDMLoadAdapter"} <= {kind for _, kind, _ in found}
    # 0.33 itself compares `vision_tower` with its list; 0.3.75 leaves that to the run.
    files = ("ckpt_name", "pack", "name", "vision_tower", "clip_name", "control_net_name", "lora_name", "image")
    assert all(name in files for _, _, name in found), found


REGIONS = {
    "width": 64,
    "height": 64,
    "boxes": "0 0 0.5 1",
    "shape": "box",
    "grow": 1.0,
    "softness": 0.1,
    "fill": "regions only",
}


@pytest.mark.parametrize(("name", "value"), [("fill", "everything"), ("boxes", "0 0 half 1"), ("grow", 99.0)])
def test_one_wrong_value_is_one_error(server, name, value):
    """The server's own, before it runs, or the node's, while it runs: it names the input, and no folder of ours."""
    nodes = {
        "1": node("FaceCDMPersonRegions", **REGIONS | {name: value}),
        "2": node("MaskToImage", mask=["1", 0]),
        "3": node("PreviewImage", images=["2", 0]),
    }
    answer, messages = queue(server, nodes)
    if answer["node_errors"]:
        assert errors(answer) == {("1", "FaceCDMPersonRegions", name): 1} and not messages
        return
    (error,) = [message["data"] for message in messages if message["type"] == "execution_error"]
    text = error["exception_message"]
    assert error["node_id"] == "1" and name in text and str(value).split()[-2 if " " in str(value) else 0] in text
    assert error["exception_type"] == "facecdm.errors.FaceCDMError"


# ---- warnings ----


@pytest.fixture
def portrait(server) -> dict:
    """The demo's nodes by class, small, and with new seeds, so that nothing is cached."""
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")
    copy_examples(server.base / "input")
    workflow = Workflow.load(WORKFLOW).set("KSampler", "steps", 2).set("KSampler", "seed", uuid.uuid4().int % 2**31)
    return workflow.nodes


def inputs_of(nodes: dict, kind: str) -> dict:
    return next(node["inputs"] for node in nodes.values() if node["class_type"] == kind)


def id_of(nodes: dict, kind: str) -> str:
    return next(node_id for node_id, node in nodes.items() if node["class_type"] == kind)


def test_a_portrait_has_no_warning(server, portrait):
    assert shown(server, portrait) == []


def test_a_missing_pose(server, portrait):
    """Of an adapter that cannot find the face by itself."""
    adapter = load_adapter(ADAPTER)
    own = {key: value for key, value in adapter.state_dict().items() if not key.startswith("location_head.")}
    plain = TripletAdapter(replace(adapter.config, location_channels=0))
    plain.load_state_dict(own)
    save_adapter(plain, server.base / "models" / "facecdm", "no_head", overwrite=True)
    portrait["loaded"] = node("FaceCDMLoadAdapter", name="no_head.safetensors", family="auto")
    apply = inputs_of(portrait, "FaceCDMApply")
    apply["adapter"] = ["loaded", 0]
    del apply["pose"]
    ((kind, text),) = shown(server, portrait)
    assert kind == "FaceCDMApply" and text.startswith("pose is not connected")


def test_a_photo_of_a_real_person(server, portrait, astronaut, tmp_path):
    """The page says why it is not matched, and which command helps."""
    Image.fromarray((astronaut[0] * 255).byte().numpy()).save(tmp_path / "photo.jpg")
    inputs_of(portrait, "LoadImage")["image"] = server.upload(tmp_path / "photo.jpg")
    ((kind, text),) = shown(server, portrait)
    assert kind == "FaceCDMApply" and "was trained on synthetic faces only" in text
    assert "python -m facecdm get sdxl_faceid_plusv2" in text


def test_an_input_without_effect(server, portrait):
    """A new adapter has no spatial tokens."""
    options = {"face_tokens": 4, "image_tokens": 8, "face_rank": 4, "interplay": False, "seed": 0}
    portrait["new"] = node("FaceCDMNewAdapter", model=[id_of(portrait, "FaceCDMLoadDemoModel"), 0], **options)
    apply = inputs_of(portrait, "FaceCDMApply")
    apply["adapter"] = ["new", 0]
    del apply["clip_vision"], apply["image"]
    ((kind, text),) = shown(server, portrait)
    assert kind == "FaceCDMApply" and text.startswith("pose is connected and not used")


def test_a_picture_without_a_face(server, portrait):
    detect = inputs_of(portrait, "FaceCDMDetectFaces")
    nodes = {
        "1": node("EmptyImage", width=128, height=128, batch_size=1, color=0),
        "2": node("FaceCDMLoadFaceAnalyzer", pack="buffalo_s", provider="CPU", landmarks=False),
        "3": node("FaceCDMDetectFaces", **detect | {"analyzer": ["2", 0], "image": ["1", 0]}),
        "4": node("PreviewImage", images=["3", 3]),
    }
    ((kind, text),) = shown(server, nodes)
    assert kind == "FaceCDMDetectFaces" and text.startswith("Picture 0: skipped, no face")


def test_unknown_words_of_a_prompt(server, portrait):
    """On core's node that encodes it."""
    prompt = inputs_of(portrait, "CLIPTextEncode")
    prompt["text"] = f"a young woman, zeppelin, smiling, quokka{uuid.uuid4().hex[:4]}"
    ((kind, text),) = shown(server, portrait)
    assert kind == "CLIPTextEncode" and "zeppelin, quokka" in text and "smiling" not in text


def test_tiles_that_are_not_found(server, portrait):
    """On the node that samples, while it samples, and once."""
    sampler = inputs_of(portrait, "KSampler")
    portrait["tiles"] = node("RolledTiles", model=sampler["model"])
    sampler["model"] = ["tiles", 0]
    ((kind, text),) = shown(server, portrait)
    assert kind == "KSampler" and text.startswith("the picture is sampled in tiles")
