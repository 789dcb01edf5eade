"""File names from elsewhere stay in their folder, on any system."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facecdm.comfy_api.names import inside, sanitise_filename
from facecdm.errors import UnsafeName


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("a.png", "a.png"),
        ("../../etc/passwd", "passwd"),
        ("C:\\Windows\\x.png", "x.png"),
        ("..", "unnamed"),
        ("", "unnamed"),
        ("con.png", "_con.png"),
        ("a\x00b:c.png", "a_b_c.png"),
        ("dot. ", "dot"),
    ],
)
def test_known_attacks(name, safe):
    assert sanitise_filename(name) == safe


@given(st.text(max_size=300))
def test_any_text_becomes_one_short_file_name(tmp_path_factory, text):
    folder = tmp_path_factory.getbasetemp()
    name = sanitise_filename(text)
    assert inside(folder, name).parent == folder.resolve()
    assert 0 < len(name.encode()) <= 121 and not set(name) & set('/\\:*?"<>|\0')
    assert sanitise_filename(name) == name


def test_a_long_name_keeps_its_extension():
    assert sanitise_filename("ü" * 300 + ".png").endswith("ü.png")


@pytest.mark.parametrize("name", ["../x", "/etc/x", ".", "a/../../x"])
def test_inside_refuses(tmp_path, name):
    with pytest.raises(UnsafeName, match="would be written outside"):
        inside(tmp_path, name)
