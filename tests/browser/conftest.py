"""Servers with two frontends, ComfyUI's own and the newest, each in a tab of a real browser."""

import contextlib
import json
import os
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from chromium import Tab, find_browser
from frontend import Frontend, settle_in

from facecdm.apps.references import copy_examples

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def browser() -> str:
    """`python quickstart.py test` finds or installs one, or passes on the reason why not."""
    found = find_browser()
    if found is None:
        why_not = os.environ.get("FACECDM_NO_BROWSER")
        if why_not:
            pytest.skip(f"no browser: {why_not}")
        pytest.fail(
            "no browser: install chromium, or name one in FACECDM_BROWSER; `python quickstart.py test` tries "
            "to install it"
        )
    return found


@pytest.fixture(scope="session")
def newest_frontend() -> Path:
    """The folder of the newest frontend in the package index, fetched by the set-up."""
    folder = Path(os.environ.get("FACECDM_FRONTEND") or REPOSITORY / ".quickstart" / "frontend")
    if not (folder / "index.html").is_file():
        pytest.fail(f"{folder} has no index.html: run `python quickstart.py test`, or set FACECDM_FRONTEND")
    return folder


@dataclass(frozen=True)
class Page:
    """A frontend in a tab, and the server behind it."""

    frontend: Frontend
    tab: Tab
    address: str
    log: Path

    def history(self) -> dict:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.address}/history", timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def opened(browser: str, address: str, base: Path, log: Path):
    copy_examples(base / "input")
    tab = Tab(browser)
    try:
        yield Page(Frontend(tab, address), tab, address, log)
    finally:
        tab.close()


@pytest.fixture(scope="session")
def own_page(server, browser):
    """ComfyUI's own frontend, on the server of the other tests."""
    settle_in(server.base)
    with opened(browser, server.address, server.base, server.log) as page:
        yield page


@pytest.fixture(scope="session")
def newest_page(comfyui, face_models, browser, newest_frontend, tmp_path_factory):
    """The newest frontend marks missing model files as errors, so empty files stand in for them."""
    from facecdm.comfy_api.server import LocalServer, link_pack
    from facecdm.models.download import target_of
    from facecdm.models.needs import of_workflow

    base = tmp_path_factory.mktemp("newest")
    (base / "input").mkdir()
    packs = base / "models" / "insightface" / "models"
    packs.mkdir(parents=True)
    for name in ("buffalo_s", "buffalo_l", "antelopev2"):
        (packs / name).symlink_to(face_models / "models/insightface/models/buffalo_s", target_is_directory=True)
    for path in (REPOSITORY / "workflows" / "api").glob("*.json"):
        for file in of_workflow(path).files:
            if not file.is_archive:
                target = target_of(file, base / "models")
                target.parent.mkdir(parents=True, exist_ok=True)
                target.touch()
    link_pack(REPOSITORY, base)
    settle_in(base)
    with LocalServer(comfyui, base, arguments=("--front-end-root", str(newest_frontend))) as server:
        with opened(browser, server.address, base, server.log) as page:
            yield page


@pytest.fixture(params=["own", "newest"])
def page(request) -> Page:
    """Each frontend in turn."""
    return request.getfixturevalue(f"{request.param}_page")
