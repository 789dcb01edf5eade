"""dlib on real portraits, alone and beside InsightFace."""

import numpy as np
import pytest
from PIL import Image

from facecdm.errors import MissingPackage
from facecdm.evaluation.pictures import cached_opener
from facecdm.evaluation.recognisers import Dlib, InsightFace


def test_dlib_separates_people(people):
    try:
        judge = Dlib()
    except MissingPackage as error:
        pytest.skip(str(error))
    read = cached_opener()
    faces = {name: [judge.recognise(read(view)) for view in views] for name, views in people.items()}
    found = [value for views in faces.values() for value in views if value is not None]
    assert len(found) >= 4
    own = float(faces["0005"][0].embedding @ faces["0005"][2].embedding)
    other = float(faces["0005"][0].embedding @ faces["0006"][0].embedding)
    assert own > other


def test_dlib_uses_another_recognisers_key_points_where_it_finds_no_face(people, face_models):
    try:
        alone = Dlib()
    except MissingPackage as error:
        pytest.skip(str(error))
    insightface = InsightFace(face_models / "models" / "insightface", "buffalo_s")
    helped, picture = Dlib(insightface.recognise), cached_opener()(people["0005"][0])
    assert helped.recognise(picture).embedding.equal(alone.recognise(picture).embedding)
    small = np.asarray(Image.fromarray(picture).resize((64, 64), Image.LANCZOS))
    assert insightface.recognise(small) is not None and alone.recognise(small) is None
    other_person = cached_opener()(people["0006"][0])
    own, other = (
        float(helped.recognise(small).embedding @ alone.recognise(photo).embedding) for photo in (picture, other_person)
    )
    assert own > other
    assert helped.recognise(np.full((128, 128, 3), 90, np.uint8)) is None
