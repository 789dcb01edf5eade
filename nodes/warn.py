"""Warnings of a node: shown on the node, kept in the history, and logged."""

import logging
import sys

from comfy_api.latest import io, ui

logger = logging.getLogger("facecdm")
KEY = "facecdm_warnings"  # read by web/warnings.js


def show_on_running_node(warnings: list[str]) -> None:
    """Show warnings on the running node, even one of core's; an empty list removes those of an earlier run.

    They are sent to the open page and are not kept in the history.
    """
    for text in warnings:
        logger.warning("FaceCDM: %s", text)
    module = sys.modules.get("server")  # ComfyUI's module; absent without a server
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if server is not None and server.client_id is not None:
        server.send_sync(KEY, {"node": server.last_node_id, "warnings": warnings}, server.client_id)


def output(*values, warnings=(), preview: ui.PreviewImage | None = None) -> io.NodeOutput:
    """Make a node's output with its preview and warnings (sentences).

    ComfyUI caches both with the values, so a cached node still shows its warnings.
    """
    for text in warnings:
        logger.warning("FaceCDM: %s", text)
    shown: ui.PreviewImage | dict | None = preview
    if warnings:
        shown = {**(preview.as_dict() if preview is not None else {}), KEY: list(warnings)}
    return io.NodeOutput(*values, ui=shown)
