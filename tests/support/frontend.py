"""ComfyUI's frontend in a real browser: what a person sees of a workflow, and does with it."""

import json
import time
from pathlib import Path

from chromium import Tab

READY = "window.app?.graph && window.app.extensionManager && window.LiteGraph?.registered_node_types['KSampler']"
FRONTEND_ONLY = ("Note", "MarkdownNote", "PrimitiveNode", "Reroute")
# A person who has been here before: neither a tour nor a browser of templates opens by itself.
SETTINGS = {
    "Comfy.TutorialCompleted": True,
    "Comfy.InstalledVersion": "1.32.9",
    "Comfy.Workflow.Persist": False,
    "Comfy.Release.Status": "skipped",
    "Comfy.Server.LaunchArgs": {},
}


def settle_in(base: Path) -> None:
    """Writes the settings of a server's only user, before it starts."""
    folder = base / "user" / "default"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "comfy.settings.json").write_text(json.dumps(SETTINGS))


class Frontend:
    def __init__(self, tab: Tab, address: str):
        self.tab, self.address = tab, address
        self.reload()

    def reload(self) -> None:
        # The page before is ready, too, and would ask whether to leave an unsaved workflow.
        self.tab.js(
            "window.leaving = true;"
            "addEventListener('beforeunload', event => event.stopImmediatePropagation(), {capture: true})"
        )
        self.tab.go(f"http://{self.address}/")
        self.tab.until(f"!window.leaving && ({READY})", 400)
        time.sleep(2)  # extensions go on setting themselves up
        if not self.tab.js("return 'FaceCDMApply' in LiteGraph.registered_node_types"):
            raise RuntimeError("the server offers no FaceCDM nodes: see its log")

    def forget_pictures(self) -> None:
        """The frontend keeps results by node id, and shows those of one workflow in the next one's nodes."""
        self.tab.js("app.nodeOutputs = {}; app.nodePreviewImages = {};")

    def open(self, path: Path) -> None:
        """As by dropping the file on the page. An open dialog, such as that of missing models, is closed first: it
        would lie over this workflow, too, and take the first click.
        """
        if self.complaints():
            self.dismiss()
        self.forget_pictures()
        self.tab.js(
            "await app.handleFile(new File([text], name, {type: 'application/json'}));"
            "await new Promise(done => setTimeout(done, 2500))",
            text=path.read_text(encoding="utf-8"),
            name=path.name,
        )

    def missing(self) -> list[str]:
        """Types in the graph that nobody has registered."""
        return self.tab.js(
            "return app.graph.nodes.map(node => node.type).filter(type => "
            "!(type in LiteGraph.registered_node_types) && !own.includes(type))",
            own=FRONTEND_ONLY,
        )

    def complaints(self) -> list[str]:
        """What toasts, dialogs and the newer versions' list of issues say."""
        return self.tab.js(
            "return [...document.querySelectorAll(kinds)].map(element => element.innerText)",
            kinds=".p-toast-message, [role=dialog], [role=alertdialog], [data-testid=error-overlay]",
        )

    def show_issues(self) -> None:
        """Opens the newer versions' list of issues; the older ones show a dialog by themselves."""
        self.tab.js(
            "[...document.querySelectorAll('button')].find(button => button.innerText == 'View details')?.click();"
            "await new Promise(done => setTimeout(done, 2500))"
        )

    def dismiss(self) -> None:
        """Closes dialogs, toasts and the list of issues, as a person would."""
        for kind in ("rawKeyDown", "keyUp"):
            self.tab.send("Input.dispatchKeyEvent", type=kind, key="Escape", code="Escape", windowsVirtualKeyCode=27)
        self.tab.js(
            "document.querySelectorAll('[data-testid=error-overlay-dismiss], .p-toast-close-button, "
            ".p-dialog-close-button').forEach(button => button.click());"
            "await new Promise(done => setTimeout(done, 1000))"
        )

    def compiled(self) -> dict:
        """What would be queued: API JSON."""
        return self.tab.js("return (await app.graphToPrompt()).output")

    def serialised(self) -> dict:
        return self.tab.js("return app.graph.serialize()")

    def run_button(self) -> tuple[float, float]:
        self.tab.until(f"({_BUTTON})()")
        return tuple(
            self.tab.js(
                f"const r = ({_BUTTON})().getBoundingClientRect();return [r.x + r.width / 2, r.y + r.height / 2]"
            )
        )


_BUTTON = """() => document.querySelector('[data-testid=queue-button] button, button[data-testid=queue-button]')
    || [...document.querySelectorAll('button')].find(button => button.innerText.trim() == 'Run')"""
