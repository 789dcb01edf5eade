"""Regions of several people in one picture."""

from .regions import Regions, boxes_of_faces, parse_boxes, regions_of_boxes, regions_of_layout

__all__ = ["Regions", "boxes_of_faces", "parse_boxes", "regions_of_boxes", "regions_of_layout"]
