"""Mutation score: the share of changes of the code that the tests notice.

    python benchmarks/mutations --out FILE [--package NAME …] [--most 80] [--seed 1] [--minutes 90] [TESTS …]
    python benchmarks/mutations --out FILE --rerun OTHER TESTS …      only the survivors in another run's FILE

Needs `pip install cosmic-ray coverage`, FACECDM_COMFYUI and FACECDM_BASE. It runs the tests once to learn which lines
each one runs. Then each mutant (mutants.py) meets the tests that run its line, the fastest first (killing.py). Results
are added to FILE, a JSON line per mutant; mutants in FILE are not run again.
"""

import argparse
import dataclasses
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from itertools import chain, zip_longest
from pathlib import Path

import coverage
import killing
import pytest
from killing import BROKEN, PASSED, TIMEOUT
from mutants import PACKAGES, ROOT, Mutant, sample

TESTS = (
    *("adapter", "bases", "formats", "hosts", "training", "nodes", "corpus", "people", "apps/batch/execution"),
    *("pose/test_value.py", "pose/test_openpose.py", "pose/test_edit.py", "pose/test_draw.py"),
)
LEFT_OUT = ("test_server.py", "test_ray.py", "test_real.py")  # these start other processes
MOST_TESTS = 250  # per mutant
KILLED, SURVIVED = "killed", "survived"


class Mutations:
    """The pytest plugin that runs the tests once, and then against each mutant.

    mutants  the mutants to run
    out      the results' file
    until    the time to stop at, by time.monotonic
    most     seconds of tests per mutant
    """

    def __init__(self, mutants: list[Mutant], out: Path, until: float, most: float):
        self.mutants, self.out, self.until, self.most = mutants, out, until, most
        self.seconds: dict[str, float] = {}
        self.trusted: dict[tuple[str, bool], bool] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if item.path.name not in LEFT_OUT]

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        lines = self.run_once(session.items)
        self.functions = killing.functions_by_file()
        for mutant in self.mutants:
            if time.monotonic() > self.until:
                break
            started = time.monotonic()
            tests = self.tests_of(mutant, lines)
            outcome, by = self.outcome(mutant, tests)
            result = dataclasses.asdict(mutant) | {"change": mutant.change(), "outcome": outcome, "by": by}
            result |= {"tests": len(tests), "seconds": round(time.monotonic() - started, 2)}
            with self.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(result, ensure_ascii=False) + "\n")
        return True

    def run_once(self, items: list[pytest.Item]) -> dict[str, dict[int, list[str]]]:
        """{file: {line: tests that run it}}, of tests that pass."""
        files = [str(ROOT / path / "*" if (ROOT / path).is_dir() else ROOT / path) for path in PACKAGES.values()]
        measured = coverage.Coverage(data_file=None, include=files, config_file=False)
        measured.start()
        for item, following in zip(items, [*items[1:], items[0]]):
            measured.switch_context(item.nodeid)
            started = time.monotonic()
            reports = killing.runtestprotocol(item, log=False, nextitem=following)
            if any(report.when == "call" and report.passed for report in reports):
                self.seconds[item.nodeid] = time.monotonic() - started
            elif not any(report.skipped for report in reports):
                print(f"fails without a mutant: {item.nodeid}", flush=True)
        measured.stop()
        print(f"{len(self.seconds)} tests passed in {sum(self.seconds.values()):.0f} s", flush=True)
        data = measured.get_data()
        found = {file: data.contexts_by_lineno(file) for file in data.measured_files()}
        return {
            file: {line: [test for test in tests if test in self.seconds] for line, tests in of_file.items()}
            for file, of_file in found.items()
        }

    def tests_of(self, mutant: Mutant, lines: dict[str, dict[int, list[str]]]) -> list[str]:
        """The tests that run the mutant's line, the fastest first; the package's for a line that runs on import."""
        of_file = lines.get(str(ROOT / mutant.file), {})
        package = str(ROOT / PACKAGES[mutant.package])
        found = of_file.get(mutant.line) if mutant.in_function else None
        found = found or [*chain(*(chain(*of.values()) for file, of in lines.items() if file.startswith(package)))]
        chosen, total = [], 0.0
        for name in sorted(set(found), key=self.seconds.__getitem__)[:MOST_TESTS]:
            total += self.seconds[name]
            if chosen and total > self.most:
                break
            chosen.append(name)
        return chosen

    def outcome(self, mutant: Mutant, tests: list[str]) -> tuple[str, str]:
        """(outcome, the test that killed it or the reason)"""

        def exchanged(names: list[str]) -> int:
            killing.exchange(mutant, self.functions)
            return self.run_items(names)

        if not tests:
            return SURVIVED, "no test runs it"
        if mutant.in_function:
            by = self.killer(exchanged, self.run_items, tests)
            if by is not None:
                return KILLED, by
        by = self.killer(
            lambda names: killing.run_afresh(mutant, names), lambda names: killing.run_afresh(None, names), tests, True
        )
        return (SURVIVED, "") if by is None else (KILLED, by)

    def run_items(self, names: list[str]) -> int:
        items = list(self.items.values())
        return killing.run_items([self.items[name] for name in names], items[-1])

    def killer(
        self,
        run: Callable[[list[str]], int],
        without_mutant: Callable[[list[str]], int],
        tests: list[str],
        afresh: bool = False,
    ) -> str | None:
        """The test that fails because of the mutant, "import", or "time"; None if all pass.

        A test that fails in a child without a mutant, too, does not count.
        """
        tests = list(tests)
        while tests:
            limit = 10 + 60 * afresh + 4 * sum(self.seconds[name] for name in tests)
            code = killing.in_child(lambda: run(tests), limit)  # noqa: B023 - called at once
            if code in (PASSED, TIMEOUT):
                return None if code == PASSED else "time"
            name = tests[0 if code == BROKEN else code - 1]
            if (name, afresh) not in self.trusted:
                limit = 10 + 60 * afresh + 4 * self.seconds[name]
                alone = killing.in_child(lambda: without_mutant([name]), limit)  # noqa: B023 - called at once
                self.trusted[name, afresh] = alone == PASSED
                if alone != PASSED:
                    print(f"fails in a child{' afresh' * afresh} without a mutant: {name}", flush=True)
            if self.trusted[name, afresh]:
                return "import" if code == BROKEN else name
            tests.remove(name)
        return None


def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.exists() else []


def mutant_of(result: dict) -> Mutant:
    return Mutant(**{field.name: result[field.name] for field in dataclasses.fields(Mutant)})


def report(results: list[dict]) -> None:
    """Print the score of each package, and the survivors."""
    counts = defaultdict(Counter)
    for result in results:
        counts[result["package"]][result["outcome"]] += 1
    for package, of in counts.items():
        print(f"{package}: {of[KILLED]} of {of.total()} killed ({of[KILLED] / of.total():.1%})")
    for result in results:
        if result["outcome"] == SURVIVED:
            print(f"{result['file']}:{result['line']}: {result['change']} {result['by']}".rstrip())


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--package", action="append", choices=PACKAGES)
    parser.add_argument("--most", type=int, default=80)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--seconds", type=float, default=60, help="most seconds of tests per mutant")
    parser.add_argument("--rerun", type=Path)
    parser.add_argument("--slow", action="store_true", help="with the slow tests, too")
    parser.add_argument("tests", nargs="*", help="default: those of the packages")
    options = parser.parse_args()
    until = time.monotonic() + options.minutes * 60
    if options.rerun:
        mutants = [mutant_of(result) for result in read(options.rerun) if result["outcome"] == SURVIVED]
    else:
        packages = [sample(name, options.most, options.seed) for name in options.package or PACKAGES]
        mutants = [mutant for turn in zip_longest(*packages) for mutant in turn if mutant]
    done = {mutant_of(result) for result in read(options.out)}
    plugin = Mutations([mutant for mutant in mutants if mutant not in done], options.out, until, options.seconds)
    tests = options.tests or [str(ROOT / "tests" / name) for name in TESTS]
    marks = [] if options.slow else ["-m", "not slow"]
    code = pytest.main(["-q", "-s", "-p", "no:cacheprovider", f"--rootdir={ROOT}", *marks, *tests], plugins=[plugin])
    report(read(options.out))
    sys.exit(code)


if __name__ == "__main__":
    main()
