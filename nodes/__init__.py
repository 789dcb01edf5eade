"""Every node of the pack."""

from . import face_library, faces

NODES = [*faces.NODES, *face_library.NODES]
