"""Files of a server: safe suffixes."""

import pytest

from facecdm.apps.batch.execution.outputs import suffix_of


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        ("a.PNG", ".png"),
        ("a.exe", ".bin"),
        ("a", ".bin"),
        ("a.png/../b", ".bin"),
        ("a.png\0", ".bin"),
        ("x.tar.gz", ".bin"),
        ("v.mp4", ".mp4"),
    ],
)
def test_suffixes_of_servers(name, suffix):
    assert suffix_of(name) == suffix
