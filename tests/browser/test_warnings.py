"""Warnings stand on the node that they are about, in both frontends."""

from PIL import Image

GRAPH = {
    "1": {
        "class_type": "FaceCDMLoadFaceAnalyzer",
        "inputs": {"pack": "buffalo_s", "provider": "CPU", "landmarks": False},
    },
    "2": {"class_type": "LoadImage", "inputs": {"image": "grey.png"}},
    "3": {
        "class_type": "FaceCDMDetectFaces",
        "inputs": {
            "analyzer": ["1", 0],
            "image": ["2", 0],
            "choice": "largest",
            "index": 0,
            "min_score": 0.5,
            "no_face": "skip",
            "crop_size": 224,
            "crop_margin": 0.0,
            "mask_grow": 1.0,
            "mask_feather": 0.15,
            "detection_size": 640,
            "search_harder": True,
            "name": "",
            "unload_after": False,
        },
    },
    "4": {"class_type": "PreviewImage", "inputs": {"images": ["3", 3]}},
}
SHOWN = """
return app.graph.nodes.filter(node => node.type === 'FaceCDMDetectFaces')
    .flatMap(node => node.widgets.filter(one => one.name === 'facecdm_warnings'))
    .map(widget => [widget.element.textContent, widget.element.isConnected && widget.element.offsetHeight > 0])
"""


def test_a_warning_is_shown_on_its_node_and_not_saved_with_the_workflow(page):
    Image.new("RGB", (256, 256), "grey").save(page.base / "input" / "grey.png")
    page.frontend.forget_pictures()
    page.tab.js("app.loadApiJson(graph, 'warnings'); await new Promise(done => setTimeout(done, 1500))", graph=GRAPH)
    page.tab.click(*page.frontend.run_button())
    page.tab.until(f"(() => {{ {SHOWN} }})().some(([text, visible]) => visible)", 200)
    ((text, _),) = page.tab.js(SHOWN)
    assert text == "⚠ Picture 0: skipped, no face with a score of at least 0.5"
    (node,) = [node for node in page.frontend.serialised()["nodes"] if node["type"] == "FaceCDMDetectFaces"]
    assert not any(isinstance(value, str) and "⚠" in value for value in node["widgets_values"])


EVENTS = """
const node = app.graph.nodes.find(node => node.type === 'FaceCDMDetectFaces'), id = String(node.id);
const send = (type, detail) => app.api.dispatchEvent(new CustomEvent(type, {detail}));
const shown = () => node.widgets.find(one => one.name === 'facecdm_warnings').element.textContent;
send('executing', id);
send('facecdm_warnings', {node: id, warnings: ['while it runs']});
node.onExecuted({facecdm_warnings: ['while it runs', 'at its end']});
const ended = shown();
send('executing', id);
return [ended, shown()];
"""


def test_a_warning_sent_while_a_node_runs_is_still_shown_at_its_end(page):
    """As Detail Faces gets one from its sampling, and then shows its preview."""
    page.tab.js("app.loadApiJson(graph, 'warnings'); await new Promise(done => setTimeout(done, 1500))", graph=GRAPH)
    assert page.tab.js(EVENTS) == ["⚠ while it runs\n⚠ at its end", ""]
