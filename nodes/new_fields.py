"""Schema fields that newer ComfyUI versions have and 0.3.75 lacks."""

from inspect import signature

from comfy_api.latest import io

# For an input that few users change: newer versions show it on demand.
ADVANCED: dict[str, bool] = {"advanced": True} if "advanced" in signature(io.Float.Input).parameters else {}


def aliases(*names: str) -> dict[str, list[str]]:
    """Arguments for io.Schema: other names to find the node by."""
    return {"search_aliases": list(names)} if "search_aliases" in signature(io.Schema).parameters else {}
