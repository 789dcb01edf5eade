"""What is connected or set and changes nothing is told in the console, once, and the MODEL is made all the same."""

import pytest
from published_nodes import ARCFACE


@pytest.fixture
def told(caplog):
    """(node's function, its inputs) → what it warned of while it ran."""

    def told(run, *args, **inputs) -> list[str]:
        caplog.clear()
        run(*args, **inputs)
        return [record.message for record in caplog.records if record.name == "facecdm"]

    return told


@pytest.mark.parametrize("family", ["faceid", "faceid-portrait", "faceid-portrait-unnorm"])
def test_a_picture_that_nobody_looks_at(load, apply, told, family):
    adapter = load(family)
    name = adapter.config.parts["face"].family.name
    assert told(apply, adapter) == [
        f"FaceCDM: image and clip_vision are connected, and {name} looks at no picture: nothing of it is heard. "
        "Disconnect it, or add an image stream with Combine Adapters."]
    assert "FaceCDM: clip_vision is connected, and" in told(apply, adapter, image=None)[0]
    assert not told(apply, adapter, image=None, clip_vision=None)


def test_a_picture_that_somebody_looks_at(in_comfy, load, apply, told):
    both, _ = in_comfy.run("FaceCDMCombineAdapters", adapter=load("faceid"), other=load("ip-adapter"))
    assert not told(apply, both) and not told(apply, load("ip-adapter"))


def test_of_several_people_who_it_is(in_comfy, sd15, load, told, make_faces, picture):
    masks = in_comfy.run("FaceCDMPersonRegions", width=64, height=32, boxes="0 0 0.5 1\n0.5 0 1 1", shape="box",
                         grow=1.0, softness=0.1, fill="regions only")[0]
    people = {f"faces_{n}": make_faces(n, recogniser=ARCFACE) for n in (1, 2)}
    said = told(in_comfy.run, "FaceCDMApplyPeople", model=sd15, adapter=load("faceid"), masks=masks, face_strength=1.0,
                image_strength=1.0, keep_prompt=0.0, start_at=0.0, end_at=1.0, image_2=picture(), **people)
    assert len(said) == 1 and said[0].startswith("FaceCDM: person 2: image is connected, and FaceID looks at no")
