"""Every node of the pack."""

from . import adapter, apply, dataset, demo, detail, face_library, faces, people

MODULES = (faces, face_library, adapter, apply, people, detail, dataset, demo)
NODES = [node for module in MODULES for node in module.NODES]
