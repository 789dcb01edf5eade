"""Socket types that core does not offer by name; everything else that a graph carries is a core type."""

from comfy_api.latest import io

FACES = io.Custom("FACES")
FACE_ANALYZER = io.Custom("FACE_ANALYZER")
ADAPTER = io.Custom("FACECDM_ADAPTER")
DATA_SET = io.Custom("FACECDM_DATA_SET")
POSE_KEYPOINT = io.Custom("POSE_KEYPOINT")  # as core's and controlnet_aux' nodes have it
OPTIONS = io.Custom("FACECDM_OPTIONS")
