"""Every node of the pack."""

from . import adapter, apply, demo, face_library, faces

NODES = [*faces.NODES, *face_library.NODES, *adapter.NODES, *apply.NODES, *demo.NODES]
