"""Who is where in a picture of several people."""

from .regions import Regions, boxes_of_faces, parse_boxes, regions_of_boxes, regions_of_layout

__all__ = ["Regions", "boxes_of_faces", "parse_boxes", "regions_of_boxes", "regions_of_layout"]
