"""With ComfyUI's language set to Chinese the newest frontend shows our nodes in Chinese.

Frontend 1.32.9 of ComfyUI 0.3.75 does not: it loads its own Chinese texts over those of the packs.
"""

import json
from pathlib import Path

import pytest
from chromium import Tab
from frontend import Frontend

ROOT = Path(__file__).resolve().parents[2]
DEFS = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))
NODE = "FaceCDMApply"
GRAPH = {"1": {"class_type": NODE, "inputs": {}}}
SHOWN = """
const [node] = app.graph.nodes;
return {
    title: node.getTitle(),
    inputs: Object.fromEntries(node.inputs.map(one => [one.name, one.label ?? one.localized_name])),
    widgets: Object.fromEntries(node.widgets.map(one => [one.name, one.label])),
    category: LiteGraph.registered_node_types[node.type].category,
}
"""


@pytest.fixture
def chinese(newest_page, browser):
    """A second tab, opened after a user chose 中文; English again afterwards."""
    choose = "await app.extensionManager.setting.set('Comfy.Locale', language)"
    newest_page.tab.js(choose, language="zh")
    tab = Tab(browser)
    try:
        Frontend(tab, newest_page.address)
        yield tab
    finally:
        tab.close()
        newest_page.tab.js(choose, language="en")


def test_nodes_have_chinese_names(chinese):
    chinese.js("app.loadApiJson(graph, 'zh'); await new Promise(done => setTimeout(done, 1500))", graph=GRAPH)
    shown, expected = chinese.js(SHOWN), DEFS[NODE]
    assert shown["title"] == expected["display_name"]
    assert shown["category"].startswith("FaceCDM")
    names = {key: one["name"] for key, one in expected["inputs"].items()}
    assert {key: names[key] for key in shown["inputs"]} == shown["inputs"]
    assert {key: names[key] for key in shown["widgets"] if key in names} == shown["widgets"]
