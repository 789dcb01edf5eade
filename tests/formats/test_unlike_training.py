"""A photo of a real person is unlike the faces of the demo's adapter, and a warning says which command helps."""

import numpy as np
import pytest
import torch
from PIL import Image
from twins import new_adapter

from facecdm.adapter.native import load_adapter
from facecdm.adapter.person import Person, Stream
from facecdm.apps.references import DEFAULT
from facecdm.bases import SD15
from facecdm.demo.paths import ADAPTER
from facecdm.faces.analyzer import open_pack
from facecdm.faces.detect import Options, detect_faces
from facecdm.formats.unlike_training import unlike_training


@pytest.fixture(scope="module")
def demo():
    return load_adapter(ADAPTER)


@pytest.fixture(scope="module")
def embedded(face_models):
    """A picture [1, H, W, 3] → its face's unit embedding [1, D]."""
    analyzer = open_pack([face_models / "models" / "insightface"], "buffalo_s")

    def embed(image):
        faces = detect_faces(analyzer, image, Options()).faces
        return torch.nn.functional.normalize(torch.as_tensor(faces[0].embedding).float().reshape(1, -1), dim=1)

    return embed


def test_a_photo_of_a_real_person_is_warned_of(demo, embedded, astronaut):
    (text,) = unlike_training(Person(demo, embedded(astronaut)))
    assert "was trained on synthetic faces only" in text and "facecdm get sdxl_faceid_plusv2" in text


def test_the_demos_own_people_are_not(demo, embedded):
    for path in DEFAULT:
        image = torch.from_numpy(np.asarray(Image.open(path).convert("RGB")).copy()).float()[None] / 255
        assert not unlike_training(Person(demo, embedded(image)))


def test_adapters_for_photos_and_streams_that_are_off_do_not_warn(demo):
    layer_map, face = SD15.layer_map, torch.nn.functional.normalize(torch.randn(1, 512), dim=1)
    adapter = new_adapter(layer_map)
    assert not unlike_training(Person(adapter, face)), "a new adapter knows no mean"
    adapter.face_projector.mean[0] = 0.5
    face = -adapter.face_projector.mean[None] * 2
    (text,) = unlike_training(Person(adapter, face))
    assert "an adapter that was trained on photos like this one" in text and "demo" not in text
    assert not unlike_training(Person(adapter, face, settings={"face": Stream(strength=0.0)}))
    assert not unlike_training(Person(adapter, None)) and not unlike_training(Person(object(), face))
