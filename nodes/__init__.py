"""Every node of the pack."""

from . import adapter, apply, demo, face_library, faces, people

NODES = [*faces.NODES, *face_library.NODES, *adapter.NODES, *apply.NODES, *people.NODES, *demo.NODES]
