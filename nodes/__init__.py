"""Every node of the pack."""

from . import adapter, apply, dataset, demo, detail, eva, face_library, faces, people

MODULES = (faces, face_library, adapter, apply, eva, people, detail, dataset, demo)
NODES = [node for module in MODULES for node in module.NODES]
