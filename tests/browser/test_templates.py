"""The shipped workflows in the template browser: they are found by their titles and open at a zoom that can be read."""

import json
import time
from pathlib import Path

import pytest
from chromium import Tab
from frontend import Frontend

from workflows.source import PLANS

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
WINDOW = (1920, 1080)
LEAST_ZOOM = 0.65  # below it the frontends draw no text
LEAF = "[...document.querySelectorAll('span, h3')].find(one => !one.children.length && one.innerText.trim() == {!r})"
VIEW = """
const {scale, offset} = app.canvas.ds;
const note = app.graph.nodes.find(node => node.type == 'MarkdownNote');
const lefts = app.graph.nodes.map(node => node.pos[0]);
return {scale, note: [(note.pos[0] + offset[0]) * scale, (note.pos[1] + offset[1]) * scale],
        first: note.pos[0] == Math.min(...lefts)};
"""


@pytest.fixture
def wide(page, browser):
    """A window of WINDOW pixels."""
    tab = Tab(browser, *WINDOW)
    try:
        yield Frontend(tab, page.address)
    finally:
        tab.close()


def test_a_template_is_found_by_its_title_and_opens_readable(wide):
    title = PLANS["portrait"].title
    wide.tab.js("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    for text in ("facecdm", title):
        wide.tab.until(LEAF.format(text), 60)
        wide.tab.js(f"{LEAF.format(text)}.click()")
    wide.tab.until("app.graph.nodes.some(node => node.type == 'FaceCDMApply')", 60)
    time.sleep(1)  # the view is fitted after the nodes are there
    assert wide.tab.js(VIEW)["scale"] >= LEAST_ZOOM


def test_every_template_opens_readable_with_its_note_first(wide):
    small = {}
    for plan in PLANS.values():
        graph = json.loads((WORKFLOWS / f"{plan.title}.json").read_text(encoding="utf-8"))
        wide.tab.js(
            # As the template browser does.
            "await app.loadGraphData(graph, true, true, title, {openSource: 'template'});"
            "await new Promise(done => setTimeout(done, 1500))",
            graph=graph,
            title=plan.title,
        )
        seen = wide.tab.js(VIEW)
        assert seen["first"] and seen["note"][0] >= 0 and seen["note"][1] >= 100, "below the menus"
        if seen["scale"] < LEAST_ZOOM:
            small[plan.title] = seen["scale"]
    assert small == {}
