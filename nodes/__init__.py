"""Every node of the pack."""

from . import (
    adapter,
    apply,
    controlnet,
    dataset,
    demo,
    detail,
    eva,
    evaluation,
    face_library,
    faces,
    people,
    pose,
    stage_settings,
    training,
)

MODULES = (
    faces,
    face_library,
    adapter,
    apply,
    controlnet,
    eva,
    people,
    pose,
    detail,
    dataset,
    training,
    stage_settings,
    evaluation,
    demo,
)
NODES = [node for module in MODULES for node in module.NODES]
