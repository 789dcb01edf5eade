"""Subgraph blueprints in the newest frontend: found by search, dropped into the graph, connected by hand, and run."""

import json
import time
from pathlib import Path

import pytest

from facecdm.bases.demo import DEMO

SUBGRAPHS = Path(__file__).resolve().parents[2] / "subgraphs"
PROMPT = "a young woman, long red hair, smiling, green striped shirt, plain blue background"
PHOTOS = {"left": "faceworld.webp", "right": "faceworld-2.webp"}


def node(kind: str, **inputs) -> dict:
    return {"class_type": kind, "inputs": inputs}


def photo(file: str) -> dict:
    return node("LoadImage", image=file)


def sampling(people: int) -> dict[str, dict]:
    """A graph that lacks the model, for so many people side by side. Ids are the keys."""
    settings = dict(seed=1, steps=4, cfg=4.0, sampler_name="euler", scheduler="karras", denoise=1.0)
    return {
        "1": node("FaceCDMLoadDemoModel"),
        "2": node("CLIPTextEncode", text=PROMPT, clip=["1", 1]),
        "3": node("CLIPTextEncode", text="", clip=["1", 1]),
        "4": node("EmptyLatentImage", width=people * DEMO.resolution, height=DEMO.resolution, batch_size=1),
        "5": node("KSampler", positive=["2", 0], negative=["3", 0], latent_image=["4", 0], **settings),
        "6": node("VAEDecode", samples=["5", 0], vae=["1", 2]),
        "7": node("SaveImage", images=["6", 0], filename_prefix="blueprint"),
    }


@pytest.fixture
def drop(newest_page):
    """Open a graph, with its nodes in the places given, and drop a blueprint into it. Returns the dropped node's id."""

    def opened(graph: dict, places: dict[str, tuple[int, int]], name: str, **widgets) -> str:
        tab = newest_page.tab
        newest_page.frontend.dismiss()
        newest_page.frontend.forget_pictures()
        tab.js(
            "await app.loadApiJson(graph, name); await new Promise(done => setTimeout(done, 1500));"
            "for (const node of app.graph.nodes) {node.pos = places[node.id];}"
            "app.canvas.ds.scale = 0.6; app.canvas.ds.offset = [750, 200]; app.canvas.setDirty(true, true)",
            graph=graph,
            name="a graph",
            places=places,
        )
        search(tab, name)
        tab.drag(centre(tab, leaf(name)), (1000, 600), steps=15)
        tab.until("app.graph.nodes.some(node => node.isSubgraphNode?.())", 30)
        return tab.js(
            "const node = app.graph.nodes.find(node => node.isSubgraphNode?.());"
            "for (const [name, value] of Object.entries(widgets))"
            "  node.widgets.find(widget => widget.name == name).value = value;"
            "return String(node.id)",
            widgets=widgets,
        )

    return opened


def search(tab, name: str) -> None:
    """Open the node library, search for an entry by the start of its name, and wait until it is shown."""
    box = "[...document.querySelectorAll('input')].find(box => /Search/.test(box.placeholder))"
    button = "[...document.querySelectorAll('button')].find(button => button.innerText.trim() == 'Nodes')"
    if not tab.js(f"return !!({box})"):
        tab.click(*centre(tab, button))
    tab.click(*centre(tab, box))
    tab.js(f"{box}.select()")
    tab.type(name[:30])  # the library finds nothing for more than 32 characters
    tab.until(leaf(name), 30)
    time.sleep(2)  # the list goes on changing


def leaf(name: str) -> str:
    """A node library's entry, as an expression."""
    entries = "[...document.querySelectorAll('[class*=tree-node] span')]"
    return f"{entries}.find(entry => entry.innerText == {json.dumps(name)})"


def centre(tab, element: str) -> tuple[float, float]:
    tab.until(element, 30)
    return tuple(
        tab.js(
            f"const box = ({element}).getBoundingClientRect();return [box.x + box.width / 2, box.y + box.height / 2]"
        )
    )


def connect(tab, source: tuple[str, int], target: tuple[str, str]) -> None:
    """Drag a link from an output, by node id and slot, to an input, by node id and name."""
    ends = [end(tab, source[0], False, source[1]), end(tab, target[0], True, target[1])]
    tab.drag(*ends, steps=15)
    tab.until(
        f"app.graph.getNodeById({target[0]}).inputs.find(one => one.name == {json.dumps(target[1])}).link != null", 20
    )


def end(tab, node_id: str, is_input: bool, slot) -> tuple[float, float]:
    return tuple(
        tab.js(
            """
        const node = app.graph.getNodeById(Number(id));
        const at = is_input ? node.inputs.findIndex(one => one.name == slot) : slot;
        const [x, y] = node.getConnectionPos(is_input, at);
        const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
        return [canvas.x + (x + offset[0]) * scale, canvas.y + (y + offset[1]) * scale];""",
            id=node_id,
            is_input=is_input,
            slot=slot,
        )
    )


def finished(page) -> dict:
    """Outputs of a run without an error."""
    entry = page.run()
    assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
    return entry["outputs"]


def test_search_finds_every_blueprint(newest_page):
    for path in SUBGRAPHS.glob("*.json"):
        search(newest_page.tab, path.stem)


def test_a_person_from_a_photo(newest_page, drop):
    graph = sampling(people=1) | {"8": photo(PHOTOS["left"])}
    places = {"1": (0, 0), "8": (0, 180), "2": (400, 0), "3": (400, 250), "4": (800, 250)}
    places |= {"5": (1150, 0), "6": (1500, 0), "7": (1500, 150)}
    person = drop(graph, places, "Person from a photo (demo model)")
    tab = newest_page.tab
    connect(tab, ("1", 0), (person, "model"))
    connect(tab, ("8", 0), (person, "photo"))
    connect(tab, (person, 0), ("5", "model"))
    assert tab.js("return app.graph.getNodeById(Number(id)).widgets.map(one => one.name)", id=person) == [
        "face_strength",
        "keep_prompt",
    ]
    assert finished(newest_page)["7"]["images"]


def test_two_people(newest_page, drop):
    graph = sampling(people=2) | {"8": photo(PHOTOS["left"]), "9": photo(PHOTOS["right"])}
    del graph["5"]["inputs"]["positive"]
    graph["10"] = node("CLIPTextEncode", text="a man, white shirt", clip=["1", 1])
    places = {
        "1": (0, 0),
        "8": (0, 180),
        "9": (0, 560),
        "2": (400, 0),
        "10": (400, 250),
        "3": (800, 0),
        "4": (800, 250),
    }
    places |= {"5": (1250, 0), "6": (1600, 0), "7": (1600, 150)}
    pair = drop(graph, places, "Two people (demo model)")
    links = (
        (("1", 0), (pair, "model")),
        (("8", 0), (pair, "left photo")),
        (("9", 0), (pair, "right photo")),
        (("2", 0), (pair, "left prompt")),
        (("10", 0), (pair, "right prompt")),
        ((pair, 0), ("5", "model")),
        ((pair, 1), ("5", "positive")),
    )
    for source, target in links:
        connect(newest_page.tab, source, target)
    assert finished(newest_page)["7"]["images"]


def test_a_training(newest_page, drop):
    """Two steps; adapter and LoRA are saved."""
    graph = {
        "1": node("FaceCDMLoadDemoModel"),
        "2": photo("faceworld.webp"),
        "3": photo("faceworld-b.webp"),
        "4": node("ImageBatch", image1=["2", 0], image2=["3", 0]),
        "5": node("FaceCDMStageSettings", steps=2, batch=1, few_steps=1, validate_every=2, identity_every=1),
        "6": node("PreviewAny"),
    }
    places = {"1": (0, 0), "2": (0, 180), "3": (0, 560), "4": (400, 0), "5": (1500, 0), "6": (1150, 0)}
    name = "trained in a browser"
    training = drop(graph, places, "Train on my photos", run=name, **{"data set": name, "adapter name": name})
    tab = newest_page.tab
    for slot, target in enumerate(("model", "clip", "vae", "clip_vision")):
        connect(tab, ("1", slot), (training, target))
    connect(tab, ("4", 0), (training, "photos"))
    connect(tab, ("5", 0), (training, "settings"))
    connect(tab, (training, 3), ("6", "source"))
    finished(newest_page)
    assert (newest_page.base / "models" / "facecdm" / f"{name}.safetensors").stat().st_size > 0
    assert list((newest_page.base / "output" / "loras").glob("FaceCDM*.safetensors"))


@pytest.fixture
def without_models(newest_page):
    """Take away the model files that a blueprint names, until the test ends. Returns them."""
    removed = []

    def remove(name: str) -> list[Path]:
        for definition in json.loads((SUBGRAPHS / f"{name}.json").read_text("utf-8"))["definitions"]["subgraphs"]:
            for node in definition["nodes"]:
                for model in node["properties"].get("models", ()):
                    removed.append(newest_page.base / "models" / model["directory"] / Path(model["name"]).name)
        for path in removed:
            path.unlink()
        newest_page.tab.js("await app.refreshComboInNodes()")
        return removed

    yield remove
    for path in removed:
        path.touch()
    newest_page.tab.js("await app.refreshComboInNodes()")


def test_missing_models_of_a_dropped_blueprint_are_offered_for_download(newest_page, drop, without_models):
    """In the properties panel; no dialog opens."""
    name = "Person from a photo (SDXL PuLID)"
    tab, missing = newest_page.tab, without_models(name)
    drop({"1": node("FaceCDMLoadDemoModel")}, {"1": (0, 0)}, name)
    panel = "document.querySelector('[aria-label$=\"properties panel\"]')"
    issues = "[...document.querySelectorAll('[role=tab]')].find(one => /Errors|Issues/.test(one.innerText))"
    tab.click(*centre(tab, panel))
    try:
        tab.click(*centre(tab, issues))
        tab.until("document.body.innerText.includes('Download all')", 30)
        shown = tab.js("return document.body.innerText").partition("Missing Models")[2]
        assert len(missing) == 2 and shown.count("Download\n") == len(missing)
        for path in missing:
            assert f"{path.name}\n{path.parent.name}\n" in shown
    finally:
        tab.js(f"{panel}.click()")
