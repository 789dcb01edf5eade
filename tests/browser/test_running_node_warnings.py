"""A warning that is sent while a node runs stands on this node, one of core's here, until it runs again."""

GRAPH = {
    "1": {"class_type": "FaceCDMLoadDemoModel", "inputs": {}},
    "2": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a young woman, zeppelin"}},
    "3": {"class_type": "PreviewAny", "inputs": {"source": ["2", 0]}},
}
PROMPT = "app.graph.nodes.find(node => node.type === 'CLIPTextEncode').widgets"
SHOWN = f"{PROMPT}.filter(one => one.name === 'facecdm_warnings').map(one => one.element.textContent).join()"


def test_a_warning_of_a_node_of_core(page):
    page.tab.js("app.loadApiJson(graph, 'words'); await new Promise(done => setTimeout(done, 1500))", graph=GRAPH)
    page.tab.click(*page.frontend.run_button())
    page.tab.until(f"{SHOWN}.includes('does not know: zeppelin')", 200)
    page.tab.js(f"{PROMPT}[0].value = 'a young woman, smiling'")
    page.tab.click(*page.frontend.run_button())
    page.tab.until(f"{SHOWN} === ''", 200)
