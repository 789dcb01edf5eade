"""Helpers of the tests of published adapters in nodes."""

from dataclasses import replace

from published import SMALL

SIZES = replace(SMALL, states=32, pooled=8)  # of the small CLIP vision model
FACES = ("faceid", "faceid-plus", "faceid-plusv2", "faceid-portrait", "faceid-portrait-unnorm")
IMAGES = ("ip-adapter", "ip-adapter-plus", "ip-adapter-full-face")
ARCFACE = "buffalo_l/w600k_r50.onnx"


def make_options(in_comfy, **changes):
    rest = {
        widget.id: widget.default
        for widget in in_comfy.nodes["FaceCDMApplyOptions"].define_schema().inputs
        if widget.id != "negative_image"
    }
    return in_comfy.run("FaceCDMApplyOptions", **rest | changes)[0]


def person(in_comfy, model):
    return model.model_options["transformer_options"][in_comfy.module("facecdm.hosts.comfy.sampling.run").PEOPLE][-1]
