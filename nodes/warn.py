"""Warnings of a node: shown on the node, kept in the history, and logged."""

from comfy_api.latest import io, ui

from ..facecdm.hosts.comfy.running_node import logger
from ..facecdm.node_warnings import WARNINGS


def output(*values, warnings=(), preview: ui.PreviewImage | None = None) -> io.NodeOutput:
    """Make a node's output with its preview and warnings (sentences).

    ComfyUI caches both with the values, so a cached node still shows its warnings.
    """
    for text in warnings:
        logger.warning("FaceCDM: %s", text)
    shown: ui.PreviewImage | dict | None = preview
    if warnings:
        shown = {**(preview.as_dict() if preview is not None else {}), WARNINGS: list(warnings)}
    return io.NodeOutput(*values, ui=shown)
