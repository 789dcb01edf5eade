import pytest


@pytest.fixture(scope="module")
def people(faceworld_val):
    """Person → three views."""
    found = {name: sorted((faceworld_val / name).glob("*.webp"))[:3] for name in ("0005", "0006")}
    assert all(len(views) == 3 for views in found.values())
    return found
