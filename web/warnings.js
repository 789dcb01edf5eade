// Shows the warnings of a FaceCDM node (nodes/warn.py) in a box on the node; gone when a run has none.
import { app } from "../../scripts/app.js";

const KEY = "facecdm_warnings";

function show(node, texts) {
    let widget = node.widgets?.find((one) => one.name === KEY);
    if (!widget) {
        if (!texts.length) return;
        const box = document.createElement("div");
        box.style.cssText = "white-space:pre-wrap;overflow:auto;color:#f0c060;font:12px sans-serif;padding:2px 6px";
        widget = node.addDOMWidget(KEY, "warnings", box, {
            serialize: false,
            hideOnZoom: false,
            getMinHeight: () => (box.textContent ? 56 : 0),
        });
        widget.serialize = false; // in the workflow, as the option is in the prompt
    }
    widget.element.textContent = texts.map((text) => `⚠ ${text}`).join("\n");
    node.setSize?.([node.size[0], Math.max(node.size[1], node.computeSize()[1])]);
    node.setDirtyCanvas?.(true, true);
}

app.registerExtension({
    name: "FaceCDM.Warnings",
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("FaceCDM")) return;
        const onExecuted = nodeType.prototype.onExecuted;
        nodeType.prototype.onExecuted = function (output) {
            onExecuted?.apply(this, arguments);
            show(this, output?.[KEY] ?? []);
        };
    },
});
