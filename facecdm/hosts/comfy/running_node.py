"""Warnings on the node that ComfyUI is running, which may be a node of core or of another pack."""

import logging
import sys

from ...node_warnings import WARNINGS

logger = logging.getLogger("facecdm")


def warn(texts: list[str]) -> None:
    """Log warnings (sentences) and show them on the running node, until it runs again.

    They are sent to the open page and are not kept in the history. Does not wait, and may be called from any thread.
    """
    for text in texts:
        logger.warning("FaceCDM: %s", text)
    module = sys.modules.get("server")  # ComfyUI's module; absent without a server
    server = getattr(getattr(module, "PromptServer", None), "instance", None)
    if server is not None and server.client_id is not None:
        server.send_sync(WARNINGS, {"node": server.last_node_id, "warnings": texts}, server.client_id)
