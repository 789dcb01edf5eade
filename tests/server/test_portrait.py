"""The shipped workflows on a real server, and images of the portrait workflow."""

import asyncio
import io
import json
from pathlib import Path

import numpy as np
import pytest

from facecdm.apps.portrait import WORKFLOW, plan
from facecdm.apps.references import EXAMPLES, FACEWORLD_REFERENCE, copy_examples, reference
from facecdm.bases.demo import DEMO
from facecdm.comfy_api.client import Client
from facecdm.comfy_api.errors import JobFailed
from facecdm.comfy_api.workflow import Workflow
from facecdm.demo.weights import default_path
from facecdm.models.download import target_of
from facecdm.models.needs import of_nodes
from workflows.source import PLANS

WORKFLOWS = WORKFLOW.parent.parent
NAMES = sorted(path.stem for path in WORKFLOW.parent.glob("*.json"))
NOTES = ("Note", "MarkdownNote")


@pytest.fixture(scope="module")
def offered(server) -> dict:
    async def get_object_info():
        async with Client(server.address) as client:
            return await client.object_info()

    return asyncio.run(get_object_info())


@pytest.fixture(scope="module")
def faceworld(server) -> str:
    """The demo's reference; all example images are in the input folder."""
    copy_examples(server.base / "input")
    return FACEWORLD_REFERENCE.name


@pytest.fixture
def owned(server, request):
    """The workflow, with empty files in place of the models that a user brings."""
    nodes = api(request.getfixturevalue("name"))
    for node in nodes.values():
        if node["class_type"] == "FaceCDMLoadFaceAnalyzer":
            node["inputs"]["pack"] = "buffalo_s"
    files = [target_of(file, server.base / "models") for file in of_nodes(nodes).files if not file.is_archive]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    yield Workflow.parse(nodes)
    for file in files:
        file.unlink()


@pytest.fixture
def weights():
    if not default_path().is_file():
        pytest.skip(f"no demo weights at {default_path()}")


def template(name: str) -> Path:
    return WORKFLOWS / f"{PLANS[name].title}.json"


def api(name: str) -> dict:
    return json.loads((WORKFLOW.parent / f"{name}.json").read_text(encoding="utf-8"))


def inputs_of(offered: dict, kind: str) -> dict:
    """Name → declaration, of required and optional inputs."""
    return {
        name: declared
        for group in ("required", "optional")
        for name, declared in offered[kind]["input"].get(group, {}).items()
    }


def is_link(value) -> bool:
    return isinstance(value, list)


# ---- every workflow ----


def test_every_workflow_has_a_thumbnail():
    assert sorted(PLANS) == NAMES
    for name in NAMES:
        assert 0 < template(name).with_suffix(".jpg").stat().st_size <= 60_000, f"{name} has no small thumbnail"


@pytest.mark.parametrize("name", NAMES)
def test_every_node_and_input_exists(offered, name):
    for node in api(name).values():
        kind, given = node["class_type"], node["inputs"]
        assert kind in offered
        declared = inputs_of(offered, kind)
        assert set(given) <= set(declared), f"{kind} has no such input any more"
        for key, (type_, *_) in declared.items():
            sockets = isinstance(type_, str) and type_ not in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
            assert key in given or (sockets and key in offered[kind]["input"].get("optional", {})), f"{kind}.{key}"


@pytest.mark.parametrize("name", NAMES)
def test_the_server_accepts_it(server, faceworld, owned, name):
    async def queue():
        async with Client(server.address) as client:
            await client.cancel(await client.submit(owned))

    asyncio.run(queue())


@pytest.mark.parametrize("name", NAMES)
def test_what_opens_is_what_is_queued(offered, name):
    """The UI's nodes, links and widgets equal the API JSON."""
    opened = json.loads(template(name).read_text(encoding="utf-8"))
    assert opened["version"] == 0.4
    source = {link[0]: [str(link[1]), link[2]] for link in opened["links"]}
    queued = api(name)
    nodes = {str(node["id"]): node for node in opened["nodes"] if node["type"] not in NOTES}
    assert nodes.keys() == queued.keys()
    for node_id, node in nodes.items():
        assert node["mode"] == 0 and node["type"] == queued[node_id]["class_type"]
        title = queued[node_id]["_meta"]["title"]
        if "title" in node:
            assert title == node["title"]
        elif node["type"].startswith("FaceCDM"):  # core's display names differ from version to version
            assert title == offered[node["type"]]["display_name"]
        assert (
            widgets(node, offered)
            | {item["name"]: source[item["link"]] for item in node["inputs"] if item.get("link") is not None}
            == queued[node_id]["inputs"]
        )


def widgets(node: dict, offered: dict) -> dict:
    """Values by name. A seed's value is followed by that of "control after generate"; buttons have none."""
    values = iter(node.get("widgets_values", ()))
    found = {}
    for item in (item for item in node["inputs"] if "widget" in item):
        declared = inputs_of(offered, node["type"]).get(item["name"])
        value = next(values)
        if declared is None:  # the frontend's own, as LoadImage's upload button
            continue
        found[item["name"]] = value
        options = declared[1] if len(declared) > 1 else {}
        if options.get("control_after_generate", item["name"] in ("seed", "noise_seed")):
            assert next(values) == "fixed", "a shipped workflow makes the same picture twice"
    assert not list(values)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap(name):
    opened = json.loads(template(name).read_text(encoding="utf-8"))
    boxes = {
        node["id"]: (
            node["pos"][0],
            node["pos"][1] - 30,
            node["pos"][0] + node["size"][0],
            node["pos"][1] + node["size"][1],
        )
        for node in opened["nodes"]
    }
    for one, (left, top, right, bottom) in boxes.items():
        for other, (x0, y0, x1, y1) in boxes.items():
            assert one == other or right <= x0 or x1 <= left or bottom <= y0 or y1 <= top, f"{one} and {other}"


# ---- the portrait ----


def test_the_command_finds_the_inputs_that_it_edits():
    picture = reference("me.webp", FACEWORLD_REFERENCE.read_bytes())
    jobs = plan(Workflow.load(WORKFLOW), [picture], ["a man"], ["me (1).webp"], seed=9, steps=4)
    assert jobs[0].workflow.get("Reference", "image") == "me (1).webp"
    assert jobs[0].workflow.get("KSampler", "steps") == 4


def quick(faceworld: str, seed: int = 1) -> Workflow:
    return (
        Workflow.load(WORKFLOW)
        .set("Reference", "image", faceworld)
        .set("KSampler", "seed", seed)
        .set("KSampler", "steps", 4)
    )


def picture_of(server, workflow: Workflow):
    from PIL import Image

    outputs = server.run(workflow.nodes).images()
    assert len(outputs) == 1
    return Image.open(io.BytesIO(server.fetch(outputs[0])))


def test_a_portrait_contains_its_workflow(weights, server, faceworld):
    workflow = quick(faceworld, seed=2)
    picture = picture_of(server, workflow)
    assert picture.size == (DEMO.resolution, DEMO.resolution)
    recipe = json.loads(picture.info["prompt"])
    for node in recipe.values():
        node.pop("is_changed", None)  # ComfyUI writes the fingerprints in
    assert recipe == workflow.nodes
    assert str(default_path().parent) not in picture.info["prompt"], "the image shows a path of this machine"


def test_an_untrained_adapter_leaves_the_picture_as_it_is(weights, server, faceworld):
    workflow = quick(faceworld, seed=3)
    apply, base = map(workflow.find, ("FaceCDMApply", "FaceCDMLoadDemoModel"))
    nodes = untrained(workflow)
    without = relinked(nodes, {(apply, 0): [base, 0]})
    with_apply, plain, shown = (picture_of(server, Workflow.parse(some)) for some in (nodes, without, workflow.nodes))
    assert np.array_equal(np.asarray(with_apply), np.asarray(plain))
    assert not np.array_equal(np.asarray(shown), np.asarray(plain)), "the demo's own adapter is trained"


def untrained(workflow: Workflow) -> dict:
    """Its nodes with New FaceCDM Adapter in place of the demo's adapter and LoRA."""
    trained, base = map(workflow.find, ("FaceCDMLoadDemoAdapter", "FaceCDMLoadDemoModel"))
    new = {
        "class_type": "FaceCDMNewAdapter",
        "inputs": {
            "model": [base, 0],
            "clip_vision": [base, 3],
            "face_tokens": 4,
            "image_tokens": 8,
            "face_rank": 128,
            "interplay": True,
            "seed": 0,
        },
    }
    return relinked(workflow.nodes, {(trained, 0): [base, 0], (trained, 1): ["new", 0]}) | {"new": new}


def relinked(nodes: dict, links: dict) -> dict:
    """A copy whose links (node, output) lead elsewhere."""
    return {
        key: {
            **node,
            "inputs": {
                name: links.get(tuple(value), value) if is_link(value) else value
                for name, value in node["inputs"].items()
            },
        }
        for key, node in nodes.items()
    }


def pixels(server, output) -> np.ndarray:
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(server.fetch(output))).convert("RGB"), float)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.ravel(), b.ravel())[0, 1])


@pytest.mark.slow
def test_img2img_keeps_the_composition(weights, server, faceworld):
    """The prompt asks for another person in other clothes: correlation .95, .43 if nothing is kept."""
    from PIL import Image

    workflow = Workflow.load(WORKFLOW.parent / "img2img.json")
    (made,) = server.run(untrained(workflow)).images()
    start = Image.open(EXAMPLES / workflow.get("Start from", "image")).convert("RGB")
    start = start.resize((DEMO.resolution, DEMO.resolution))
    assert 0.85 < correlation(pixels(server, made), np.asarray(start, float)) < 0.99


def mask_picture(node: str, output: int) -> dict:
    return {"class_type": "MaskToImage", "inputs": {"mask": [node, output]}}


@pytest.mark.slow
def test_detail_faces_keeps_the_face(weights, server, faceworld):
    """Correlation .98 in the replaced region, .88 from pure noise; outside of it every byte is the same."""
    workflow = Workflow.load(WORKFLOW.parent / "detail_faces.json")
    detail, save = workflow.find("Detail Faces"), workflow.find("Save Image")
    saves = {
        key: {"class_type": "SaveImage", "inputs": {"images": [source, 0], "filename_prefix": key}}
        for key, source in (("before", workflow.find("VAE Decode")), ("replaced", "mask"), ("not 0", "touched"))
    }
    # A mask below 1/510 is saved as 0, and may still change a byte: "touched" has every position above 0.
    touched = {"class_type": "ThresholdMask", "inputs": {"mask": [detail, 1], "value": 0.0}}
    masks = {"above 0": touched, "mask": mask_picture(detail, 1), "touched": mask_picture("above 0", 0)}
    done = server.run(untrained(workflow) | saves | masks)
    after, before, replaced, touched = (pixels(server, done.images(node)[0]) for node in (save, *saves))
    assert (replaced > 127).mean() > 0.05 and 0.92 < correlation(after[replaced > 127], before[replaced > 127]) < 0.999
    assert (touched == 0).mean() > 0.5 and np.array_equal(after[touched == 0], before[touched == 0])


def test_a_picture_without_a_face_is_reported(weights, server, tmp_path: Path):
    from PIL import Image

    Image.new("RGB", (256, 256), "grey").save(tmp_path / "wall.png")
    with pytest.raises(JobFailed, match="FaceCDMApply.*no face.*Detect & Embed Faces"):
        server.run(quick(server.upload(tmp_path / "wall.png")).nodes)


def test_a_face_at_the_edge_of_a_tall_photo_is_centred(weights, server, tmp_path: Path):
    """The pose is taken from the square crop; of the whole photo, the face would lie outside of the image's square."""
    from PIL import Image

    tall = Image.new("RGB", (512, 1800), "grey")
    tall.paste(Image.open(FACEWORLD_REFERENCE).convert("RGB").resize((512, 512)))
    tall.save(tmp_path / "tall.png")
    workflow = quick(server.upload(tmp_path / "tall.png"))
    save = {
        "class_type": "SaveImage",
        "inputs": {"images": [workflow.find("FaceCDMExtractPose"), 0], "filename_prefix": "pose"},
    }
    pose = pixels(server, server.run(workflow.nodes | {"pose image": save}).images("pose image")[0]).max(-1) > 50
    assert pose.shape[0] == pose.shape[1] and pose.any()
    middle = np.argwhere(pose).mean(0) / len(pose)
    assert (np.abs(middle - 0.5) < 0.1).all(), middle


@pytest.mark.slow
@pytest.mark.parametrize("seed", [1, 2])
def test_two_people_are_each_most_similar_to_their_own_photo(weights, server, faceworld, face_models, seed):
    """Both people were held out."""
    from PIL import Image

    from facecdm.faces.analyzer import open_pack

    workflow = Workflow.load(WORKFLOW.parent / "two_people.json").set("KSampler", "seed", seed)
    (made,) = server.run(workflow.nodes).images()
    picture = pixels(server, made)
    analyzer = open_pack([face_models / "models" / "insightface"], "buffalo_s", "CPU")

    def embedded(rgb: np.ndarray) -> np.ndarray:
        bgr = np.ascontiguousarray(rgb[..., ::-1]).astype(np.uint8)
        face = max(analyzer.detect(bgr, 640, 0.3), key=lambda face: face.score)
        vector = np.asarray(analyzer.embed(bgr, face)[0])
        return vector / np.linalg.norm(vector)

    photos = [
        embedded(np.asarray(Image.open(EXAMPLES / node["inputs"]["image"]).convert("RGB")))
        for node in workflow.nodes.values()
        if node["class_type"] == "LoadImage"
    ]  # left, right
    halves = [embedded(half) for half in np.split(picture, 2, axis=1)]
    likeness = np.array(halves) @ np.array(photos).T
    assert (likeness.argmax(1) == [0, 1]).all(), likeness
