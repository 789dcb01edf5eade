"""The running server hands the frontend every language's texts and help pages."""

import json
import urllib.error
import urllib.request
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir() if folder.is_dir())


def get(server, path: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{server.address}{path}", timeout=60) as answer:
        return answer.read()


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_server_serves_our_translations(server, language):
    served = json.loads(get(server, "/i18n"))[language]
    folder = ROOT / "locales" / language
    main = json.loads((folder / "main.json").read_text(encoding="utf-8"))
    assert served == {**main, "nodeDefs": json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))}


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_server_serves_our_help_pages_and_falls_back_to_english(server, language):
    """The frontend asks for docs/NODE/LANGUAGE.md and, where that is missing, for docs/NODE.md."""
    info = json.loads(get(server, "/object_info"))
    for name in (name for name in info if name.startswith("FaceCDM")):
        docs = f"/extensions/{info[name]['python_module'].removeprefix('custom_nodes.')}/docs/{name}"
        assert get(server, f"{docs}.md") == (ROOT / "web" / "docs" / f"{name}.md").read_bytes()
        page = ROOT / "web" / "docs" / name / f"{language}.md"
        if page.is_file():
            assert get(server, f"{docs}/{language}.md") == page.read_bytes()
        else:
            with pytest.raises(urllib.error.HTTPError, match="404"):
                get(server, f"{docs}/{language}.md")
