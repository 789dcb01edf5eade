"""Every node of the pack; a module holds the nodes of one subject and lists them in NODES.

A node is laid out as define_schema (as ruff formats it, inputs in the order of execute; inputs that nodes share come
from functions named *_inputs), validate_inputs (what the server does not check: `check_choices`), fingerprint_inputs,
and execute (`@checked`), which calls facecdm and returns `warn.output`.
"""

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
