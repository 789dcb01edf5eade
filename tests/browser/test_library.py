"""Nodes dragged from the node library into an empty graph and connected."""

import re
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
NODES = ("FaceCDMLoadDemoModel", "FaceCDMNewAdapter")


@pytest.fixture
def empty(own_page):
    """The tab with an empty graph, in a new workflow tab: no question about saving; with the library as a tree."""
    own_page.tab.js(
        "await app.extensionManager.setting.set('Comfy.NodeLibrary.NewDesign', false).catch(() => {});"
        "await app.extensionManager.command.execute('Comfy.NewBlankWorkflow'); app.canvas.ds.reset();"
        "await new Promise(done => setTimeout(done, 800))"
    )
    assert own_page.tab.js("return app.graph.nodes.length") == 0
    return own_page


def middle(tab, element: str) -> tuple[float, float]:
    """The centre of a DOM element, given as an expression, in page coordinates."""
    tab.until(element, 30)
    return tuple(
        tab.js(
            f"const box = ({element}).getBoundingClientRect();return [box.x + box.width / 2, box.y + box.height / 2]"
        )
    )


def socket(tab, kind: str, is_input: bool, name: str) -> tuple[float, float]:
    """The page coordinates of an input or output of the node of that type."""
    return tuple(
        tab.js(
            """
        const node = app.graph.nodes.find(node => node.type == kind);
        const slots = is_input ? node.inputs : node.outputs;
        const slot = slots.findIndex(slot => [slot.name, slot.label, slot.localized_name].includes(name));
        const [x, y] = node.getConnectionPos(is_input, slot);
        const {scale, offset} = app.canvas.ds, canvas = app.canvas.canvas.getBoundingClientRect();
        return [canvas.x + (x + offset[0]) * scale, canvas.y + (y + offset[1]) * scale];""",
            kind=kind,
            is_input=is_input,
            name=name,
        )
    )


def search(tab, text: str) -> None:
    """Replace the text in the library's search box."""
    box = "document.querySelector('.node-lib-search-box input, .comfy-vue-side-bar-container input')"
    tab.click(*middle(tab, box))
    tab.js(f"{box}.select()")
    tab.type(text)
    time.sleep(0.6)


def leaf(name: str) -> str:
    """A node's entry in the library, as an expression."""
    return (
        "[...document.querySelectorAll('.comfy-vue-side-bar-container .p-tree-node-leaf .node-content, "
        ".comfy-vue-side-bar-container .p-tree-node-leaf')]"
        f".find(entry => entry.innerText.trim().startsWith('{name}'))"
    )


def test_nodes_are_dragged_in_and_connected(empty):
    tab = empty.tab
    tab.click(*middle(tab, "document.querySelector('.node-library-tab-button')"))
    for number, kind in enumerate(NODES):
        name = tab.js("return LiteGraph.registered_node_types[kind].title", kind=kind)
        search(tab, name)
        tab.drag(middle(tab, leaf(name)), (750 + 420 * number, 300), steps=15)
        tab.until(f"app.graph.nodes.length == {number + 1}", 30)
    assert tab.js("return app.graph.nodes.map(node => node.type).sort()") == sorted(NODES)
    for output, name in (("MODEL", "model"), ("CLIP_VISION", "clip_vision")):
        tab.drag(socket(tab, NODES[0], False, output), socket(tab, NODES[1], True, name), steps=15)
    tab.until("Object.keys(app.graph.links).length == 2 || app.graph.links.size == 2", 30)
    compiled = empty.frontend.compiled()
    base, adapter = (next(key for key, node in compiled.items() if node["class_type"] == kind) for kind in NODES)
    inputs = compiled[adapter]["inputs"]
    assert inputs["model"] == [base, 0] and inputs["clip_vision"] == [base, 3] and inputs["face_tokens"] == 4
    assert empty.frontend.complaints() == []


@pytest.mark.parametrize("kind", ["FaceCDMApply", "FaceCDMStageSettings"])
def test_the_help_panel_shows_our_page(page, kind):
    """After clicks on the node and its info button, the panel shows the page from web/docs as HTML."""
    tab = page.tab
    tab.js(
        "await app.extensionManager.command.execute('Comfy.NewBlankWorkflow');"
        "const node = LiteGraph.createNode(kind); node.pos = [700, 300]; app.graph.add(node);"
        "await new Promise(done => setTimeout(done, 1200));"  # the view is fitted to a new graph first
        "app.canvas.ds.reset(); app.canvas.setDirty(true, true);"
        "await new Promise(done => setTimeout(done, 500))",
        kind=kind,
    )
    tab.click(
        *tab.js("""const canvas = app.canvas.canvas.getBoundingClientRect(), {scale, offset} = app.canvas.ds;
        return [canvas.x + (740 + offset[0]) * scale, canvas.y + (285 + offset[1]) * scale];""")
    )
    tab.until("document.querySelector('[data-testid=info-button]')")
    time.sleep(1)  # it is animated
    tab.click(*middle(tab, "document.querySelector('[data-testid=info-button]')"))
    tab.until("document.querySelector('.node-help-content h2')", 30)
    written = (REPOSITORY / "web" / "docs" / f"{kind}.md").read_text(encoding="utf-8")
    shown = tab.js("return document.querySelector('.node-help-content').innerText")
    for line in re.findall(r"^- `(\w+)`", written, re.M):
        assert line in shown
    assert "(default " in shown and "`" not in shown
    assert page.frontend.complaints() == []
