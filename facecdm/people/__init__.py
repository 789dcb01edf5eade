"""Who is where in a picture of several people."""

from .regions import Regions, boxes_of_faces, of_boxes, painted, parse_boxes

__all__ = ["Regions", "boxes_of_faces", "of_boxes", "painted", "parse_boxes"]
