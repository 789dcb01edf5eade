"""docs/security.md names a test for every promise, and every test that it names exists."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_tests_that_the_page_names_exist():
    page = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    pattern = r"`(tests/\S+\.py)::(\w+)`"
    promises = re.findall(r"^\| [A-Z`].*", page, re.M)
    assert promises and not [promise for promise in promises if not re.search(pattern, promise)]
    for file, name in re.findall(pattern, page):
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, f"{file} has no {name}"
