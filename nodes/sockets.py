"""Our own socket types; everything else that a graph carries is a core type."""

from comfy_api.latest import io

FACES = io.Custom("FACES")
FACE_ANALYZER = io.Custom("FACE_ANALYZER")
ADAPTER = io.Custom("FACECDM_ADAPTER")
DATA_SET = io.Custom("FACECDM_DATA_SET")
OPTIONS = io.Custom("FACECDM_OPTIONS")
