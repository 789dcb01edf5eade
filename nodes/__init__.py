"""All nodes of FaceCDM. Each module holds the nodes of one subject and lists them in NODES.

The methods of a node, in order: define_schema (inputs in the order of execute; shared inputs come from functions named
*_inputs), validate_inputs (checks one input, a file or a text, before the queue), fingerprint_inputs, and execute
(decorated with `@checked`, which checks numbers, choices and sockets). execute calls facecdm and returns `warn.output`.
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
