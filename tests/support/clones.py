"""Clones of a MODEL, as different versions of ComfyUI make them."""

from types import SimpleNamespace

import pytest


@pytest.fixture(params=["copied", "shared"])
def clones(request, in_comfy, monkeypatch):
    """The two ways in which a clone treats the objects in a MODEL's options: ComfyUI 0.3 copies, later versions share.

    A newer ComfyUI cannot be made to copy, so there only the second is tested.
    """
    import comfy.model_patcher
    import comfy.utils
    from comfy.patcher_extension import copy_nested_dicts

    if hasattr(comfy.utils, "deepcopy_list_dict"):
        if request.param == "copied":
            pytest.skip("this ComfyUI shares the objects of a MODEL's options")
    elif request.param == "shared":
        monkeypatch.setattr(comfy.model_patcher, "copy", SimpleNamespace(deepcopy=copy_nested_dicts))
