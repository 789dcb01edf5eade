"""Run tests against a mutant, in a child of a process that has imported everything.

A change in a function is made by exchanging the code of the living functions; then the tests run with the fixtures that
the parent has made. For other changes, and before a mutant counts as a survivor, the child forgets the modules of this
repository and of ComfyUI, imports the changed file, and runs the tests with fixtures of its own.
"""

import gc
import importlib.machinery
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import CodeType, FunctionType

import pytest
from _pytest.runner import runtestprotocol
from mutants import ROOT, Mutant

PASSED, BROKEN, TIMEOUT = 0, 255, 256  # 1 … 254: the number of the test that failed


def in_child(run: Callable[[], int], seconds: float) -> int:
    """What `run` gives in a forked process; BROKEN if it raises, TIMEOUT if it takes longer than `seconds`."""
    child = os.fork()
    if not child:
        os.setpgid(0, 0)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 1), os.dup2(silence, 2)
        code = BROKEN
        try:
            code = run()
        finally:
            os._exit(code)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else BROKEN
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return TIMEOUT


def run_items(items: list[pytest.Item], last: pytest.Item) -> int:
    """Run tests of the parent's session up to the first that fails; its number from 1, or PASSED.

    Session fixtures are kept for `last`.
    """
    items[0].session._setupstate.teardown_exact(items[0])
    for number, (item, following) in enumerate(zip(items, [*items[1:], last]), 1):
        if any(report.failed for report in runtestprotocol(item, log=False, nextitem=following)):
            return number
    return PASSED


def functions_by_file() -> dict[str, list[FunctionType]]:
    """The living functions of the library, by the file that they are from."""
    found: dict[str, list[FunctionType]] = {}
    for each in gc.get_objects():
        if isinstance(each, FunctionType) and Path(each.__code__.co_filename).is_relative_to(ROOT / "facecdm"):
            found.setdefault(each.__code__.co_filename, []).append(each)
    gc.freeze()  # children share this memory with the parent as long as nobody writes to it
    return found


def exchange(mutant: Mutant, functions: dict[str, list[FunctionType]]) -> None:
    """Give all living functions of the mutant's file their changed code."""
    path = str(ROOT / mutant.file)
    new = {}
    for code in _codes(compile(mutant.source(), path, "exec")):
        new.setdefault((code.co_name, code.co_firstlineno), code)
    for function in functions.get(path, ()):
        code = function.__code__
        changed = new.get((code.co_name, code.co_firstlineno))
        if changed and changed.co_freevars == code.co_freevars:
            function.__code__ = changed


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


class FirstFailure:
    """A pytest plugin that keeps the name of the first test that failed."""

    name = ""

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self.name = self.name or report.nodeid


def run_afresh(mutant: Mutant | None, tests: list[str]) -> int:
    """Import this repository and ComfyUI again, with the mutant, and run the tests; result as `run_items`."""
    comfyui = Path(os.environ["FACECDM_COMFYUI"]).resolve()
    for name, module in list(sys.modules.items()):
        file = Path(getattr(module, "__file__", None) or "/")
        if (file.is_relative_to(ROOT) or file.is_relative_to(comfyui)) and file.parent != Path(__file__).parent:
            del sys.modules[name]
    if mutant is not None:
        _import_changed(str(ROOT / mutant.file), mutant.source())
    first = FirstFailure()
    with tempfile.TemporaryDirectory() as folder:
        options = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder}/tests", f"--rootdir={ROOT}"]
        code = pytest.main([*options, *tests], plugins=[first])
    if code == pytest.ExitCode.OK:
        return PASSED
    return 1 + tests.index(first.name) if first.name in tests else BROKEN


def _import_changed(path: str, source: str) -> None:
    loader = importlib.machinery.SourceFileLoader
    unchanged = loader.get_code

    def get_code(self, name):
        return compile(source, path, "exec") if self.get_filename(name) == path else unchanged(self, name)

    loader.get_code = get_code
