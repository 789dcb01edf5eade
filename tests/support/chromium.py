"""A tab of a headless chromium, driven through its DevTools port; nothing but websocket-client is needed."""

import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
# Where browsers are that are not on the PATH: macOS, Windows, playwright's own.
PLACES = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
PLAYWRIGHT = (
    ".cache/ms-playwright/chromium-*/chrome-linux*/chrome",
    "Library/Caches/ms-playwright/chromium-*/chrome-mac*/Chromium.app/Contents/MacOS/Chromium",
    "AppData/Local/ms-playwright/chromium-*/chrome-win*/chrome.exe",
)


def find_browser() -> str | None:
    """FACECDM_BROWSER, or a chromium or one of its kin that is installed."""
    asked = os.environ.get("FACECDM_BROWSER")
    found = [asked] if asked else [shutil.which(name) for name in NAMES]
    found += [path for path in PLACES if Path(path).is_file()]
    found += [str(path) for pattern in PLAYWRIGHT for path in sorted(Path.home().glob(pattern), reverse=True)]
    return next((path for path in found if path), None)


class Tab:
    """One page. `js` runs the body of an async function in it and gives what it returns."""

    def __init__(self, browser: str, width: int = 1700, height: int = 950):
        import websocket

        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        profile = Path(self._profile.name)
        self._log = (profile / "stderr.log").open("w+")
        sandbox = ["--no-sandbox"] if getattr(os, "geteuid", int)() == 0 else []
        self._process = subprocess.Popen(
            [
                browser,
                "--headless=new",
                *sandbox,
                "--disable-gpu",
                "--disable-dev-shm-usage",
                "--no-first-run",
                "--disable-extensions",
                "--disable-background-networking",
                "--remote-allow-origins=*",
                "--remote-debugging-port=0",
                f"--user-data-dir={profile}",
                f"--window-size={width},{height}",
                "about:blank",
            ],
            stdout=subprocess.DEVNULL,
            stderr=self._log,
        )
        try:
            port = self._port(profile / "DevToolsActivePort")
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"http://127.0.0.1:{port}/json", timeout=30
            ) as answer:
                page = next(tab for tab in json.load(answer) if tab["type"] == "page")
            self._socket = websocket.create_connection(page["webSocketDebuggerUrl"], timeout=180)
        except BaseException:
            self.close()
            raise
        self._ids, self.exceptions = itertools.count(1), []
        self.send("Runtime.enable")
        self.send("Page.enable")

    def _port(self, file: Path) -> int:
        for _ in range(300):
            if file.is_file() and (lines := file.read_text().split()):
                return int(lines[0])
            if self._process.poll() is not None:
                self._log.seek(0)
                raise RuntimeError(f"the browser ended by itself: {self._log.read()[-2000:]}")
            time.sleep(0.2)
        raise TimeoutError("the browser did not open its DevTools port in a minute")

    def send(self, method: str, **params):
        number = next(self._ids)
        self._socket.send(json.dumps({"id": number, "method": method, "params": params}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(message["error"])
                return message["result"]
            if message.get("method") == "Runtime.exceptionThrown":
                self.exceptions.append(_error_text(message["params"]["exceptionDetails"]))

    def go(self, url: str) -> None:
        self.send("Page.navigate", url=url)

    def js(self, code: str, **values):
        """`values` are handed over as JSON constants of their names."""
        given = "".join(f"const {name} = {json.dumps(value)};" for name, value in values.items())
        result = self.send(
            "Runtime.evaluate", expression=f"(async () => {{{given}{code}}})()", awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(_error_text(result["exceptionDetails"]))
        return result["result"].get("value")

    def until(self, condition: str, seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                if self.js(f"return !!({condition})"):
                    return
            except RuntimeError:  # the page is still being built
                pass
            time.sleep(0.3)
        raise TimeoutError(f"not within {seconds:.0f} s: {condition}")

    def mouse(self, kind: str, x: float, y: float, buttons: int = 0) -> None:
        button = "left" if buttons or kind == "mouseReleased" else "none"
        self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button=button, buttons=buttons, clickCount=1)

    def click(self, x: float, y: float) -> None:
        self.mouse("mouseMoved", x, y)
        self.mouse("mousePressed", x, y, buttons=1)
        self.mouse("mouseReleased", x, y)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 8) -> None:
        """With the mouse button held down, as a hand does it."""
        self.mouse("mouseMoved", *start)
        self.mouse("mousePressed", *start, buttons=1)
        for step in range(1, steps + 1):
            self.mouse("mouseMoved", *(a + (b - a) * step / steps for a, b in zip(start, end)), buttons=1)
            time.sleep(0.03)
        self.mouse("mouseReleased", *end)

    def type(self, text: str) -> None:
        self.send("Input.insertText", text=text)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png")["data"]))

    def close(self) -> None:
        if hasattr(self, "_socket"):
            self._socket.close()
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()
        self._profile.cleanup()


def _error_text(details: dict) -> str:
    return details.get("exception", {}).get("description") or details.get("text", "?")
