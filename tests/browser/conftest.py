"""Servers with two frontends, ComfyUI's own and the newest, each in a tab of a real browser."""

import contextlib
import json
import os
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from chromium import Tab, find_browser
from frontend import Frontend, settle_in

from facecdm.apps.references import copy_examples

REPOSITORY = Path(__file__).resolve().parents[2]
API = REPOSITORY / "workflows" / "api"


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
    base: Path

    def touch_models(self, name: str) -> list[Path]:
        """Empty files in place of the models that a shipped workflow needs; their paths."""
        return touch_models(API / f"{name}.json", self.base)

    def run(self, seconds: float = 900) -> dict:
        """Click Run, wait for the end of the job, and return its entry in the history. Raises TimeoutError."""
        before = self.jobs()
        (job,) = self.click_run(before)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            entry = self.ask("history").get(job)
            if entry and (entry["status"]["completed"] or entry["status"]["status_str"] == "error"):
                return entry
            time.sleep(0.5)
        raise TimeoutError(f"job {job} did not end within {seconds:.0f} s; log: {self.log}")

    def click_run(self, before: set[str]) -> set[str]:
        """Click Run until the server has a job that is not in `before`; a click may meet a page being redrawn."""
        for _ in range(4):
            self.tab.click(*self.frontend.run_button())
            deadline = time.monotonic() + 30
            while time.monotonic() < deadline:
                if new := self.jobs() - before:
                    return new
                time.sleep(0.3)
        raise TimeoutError(f"Run queued nothing; shown: {self.frontend.complaints()}; log: {self.log}")

    def jobs(self) -> set[str]:
        """Ids of all jobs: waiting, running and ended."""
        queue = self.ask("queue")
        return {job[1] for job in (*queue["queue_running"], *queue["queue_pending"])} | self.ask("history").keys()

    def ask(self, path: str) -> dict:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://{self.address}/{path}", timeout=60) as answer:
            return json.load(answer)


@contextlib.contextmanager
def opened(browser: str, comfyui: Path, base: Path, face_models: Path, *arguments: str):
    """A page on a server of its own. Empty files stand in for the models of SD1.5 and SDXL: without them the frontends
    open a dialog with each workflow.
    """
    from facecdm.comfy_api.server import LocalServer, link_pack

    (base / "input").mkdir()
    packs = base / "models" / "insightface" / "models"
    packs.mkdir(parents=True)
    for name in ("buffalo_s", "buffalo_l", "antelopev2"):
        (packs / name).symlink_to(face_models / "models/insightface/models/buffalo_s", target_is_directory=True)
    for path in API.glob("*.json"):
        touch_models(path, base)
    link_pack(REPOSITORY, base)
    settle_in(base)
    copy_examples(base / "input")
    with LocalServer(comfyui, base, cpu=True, arguments=arguments) as server:
        tab = Tab(browser)
        try:
            yield Page(Frontend(tab, server.address), tab, server.address, server.log, base)
        finally:
            tab.close()


def touch_models(workflow: Path, base: Path) -> list[Path]:
    """Empty files in place of the models that a workflow in API form names; their paths."""
    from facecdm.models.download import target_of
    from facecdm.models.needs import of_workflow

    targets = [target_of(file, base / "models") for file in of_workflow(workflow).files if not file.is_archive]
    for target in targets:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    return targets


@pytest.fixture(scope="session")
def own_page(comfyui, face_models, browser, tmp_path_factory):
    """ComfyUI's own frontend."""
    with opened(browser, comfyui, tmp_path_factory.mktemp("own"), face_models) as page:
        yield page


@pytest.fixture(scope="session")
def newest_page(comfyui, face_models, browser, newest_frontend, tmp_path_factory):
    """The newest frontend."""
    arguments = ("--front-end-root", str(newest_frontend))
    with opened(browser, comfyui, tmp_path_factory.mktemp("newest"), face_models, *arguments) as page:
        yield page


@pytest.fixture(params=["own", "newest"])
def page(request) -> Page:
    """Each frontend in turn."""
    return request.getfixturevalue(f"{request.param}_page")
