"""Every node of the pack."""

from . import adapter, apply, demo, detail, face_library, faces, people

NODES = [*faces.NODES, *face_library.NODES, *adapter.NODES, *apply.NODES, *people.NODES, *detail.NODES, *demo.NODES]
