"""Socket types without a class in core's io; all other sockets use core's classes."""

from comfy_api.latest import io

FACES = io.Custom("FACES")
FACE_ANALYZER = io.Custom("FACE_ANALYZER")
ADAPTER = io.Custom("FACECDM_ADAPTER")
DATA_SET = io.Custom("FACECDM_DATA_SET")
POSE_KEYPOINT = io.Custom("POSE_KEYPOINT")  # also used by nodes of core and controlnet_aux
OPTIONS = io.Custom("FACECDM_OPTIONS")
