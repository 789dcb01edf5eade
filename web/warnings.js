// Shows the warnings of a FaceCDM node (nodes/warn.py), and of the node that runs
// (facecdm/hosts/comfy/running_node.py), in a box on the node until it runs again.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const KEY = "facecdm_warnings";
const sent = new WeakMap(); // node → texts sent while it ran

function union(first = [], second = []) {
    return [...new Set([...first, ...second])];
}

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

// "3", or "12:3" for node 3 of the subgraph in node 12.
function findNode(id) {
    const path = String(id).split(":");
    let graph = app.rootGraph ?? app.graph;
    for (const part of path.slice(0, -1)) graph = graph?.getNodeById(Number(part))?.subgraph;
    return graph?.getNodeById(Number(path.at(-1)));
}

app.registerExtension({
    name: "FaceCDM.Warnings",
    setup() {
        api.addEventListener(KEY, ({ detail }) => {
            const node = findNode(detail.node);
            if (!node) return;
            sent.set(node, union(sent.get(node), detail.warnings));
            show(node, sent.get(node));
        });
        api.addEventListener("executing", ({ detail }) => {
            const node = detail === null ? null : findNode(detail);
            if (!node) return;
            sent.delete(node);
            show(node, []);
        });
    },
    beforeRegisterNodeDef(nodeType, nodeData) {
        if (!nodeData.name.startsWith("FaceCDM")) return;
        const onExecuted = nodeType.prototype.onExecuted;
        nodeType.prototype.onExecuted = function (output) {
            onExecuted?.apply(this, arguments);
            show(this, union(sent.get(this), output?.[KEY]));
        };
    },
});
