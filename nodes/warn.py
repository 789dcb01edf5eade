"""Warnings of a node: shown on the node, kept in the history, and logged."""

import logging

from comfy_api.latest import io, ui

logger = logging.getLogger("facecdm")
KEY = "facecdm_warnings"  # read by web/warnings.js


def output(*values, warnings=(), preview: ui.PreviewImage | None = None) -> io.NodeOutput:
    """The output of a node with its preview and its warnings (sentences).

    ComfyUI keeps both beside the cached values, so a node that is not run again still shows its warnings.
    """
    for text in warnings:
        logger.warning("FaceCDM: %s", text)
    shown: ui.PreviewImage | dict | None = preview
    if warnings:
        shown = {**(preview.as_dict() if preview is not None else {}), KEY: list(warnings)}
    return io.NodeOutput(*values, ui=shown)
