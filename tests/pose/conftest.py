"""Packages and weights of the body detectors, which few environments have."""

import pytest


@pytest.fixture(scope="session")
def openpose_package():
    """Skips where controlnet_aux cannot be imported."""
    from facecdm.errors import MissingPackage
    from facecdm.pose.openpose import import_openpose

    try:
        return import_openpose()
    except MissingPackage as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def analyzer(face_models):
    """buffalo_s with its 106 landmarks."""
    from facecdm.faces.analyzer import open_pack

    return open_pack([face_models / "models" / "insightface"], "buffalo_s", "CPU", landmarks=True)
