"""Packages and weights of the body detectors, which few environments have."""

import shutil
import socket

import pytest

# Inputs of Extract Pose without the detector.
SETTINGS = {
    "people": "all",
    "min_score": 0.5,
    "drawing": "OpenPose",
    "draw_body": True,
    "draw_hands": True,
    "draw_face": True,
    "thickness": 1.0,
}


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


@pytest.fixture
def detector_is_closed():
    """Free the memory of the detector that the test leaves open."""
    from facecdm.pose import detectors

    yield
    detectors._last.clear()


@pytest.fixture
def connections(monkeypatch) -> list:
    """The look-ups and connections that the test tried; all of them fail."""
    connections = []

    def refuse(*given, **_):
        connections.append(given)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return connections


@pytest.fixture
def extract_node(in_comfy):
    """Extract Pose as ComfyUI runs it, with the weights of `folder` in models/`name`; with none, without."""

    def run(detector: str, name: str, folder, image):
        target = in_comfy.base / "models" / name
        shutil.rmtree(target, ignore_errors=True)
        if folder is not None:
            shutil.copytree(folder, target)
        try:
            return in_comfy.run("FaceCDMExtractPose", image=image, detector=detector, **SETTINGS)
        finally:
            shutil.rmtree(target, ignore_errors=True)
            in_comfy.module("facecdm.pose.detectors")._last.clear()

    return run
