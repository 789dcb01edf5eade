"""Bad weight files: each is refused with a typed error of at most 1,000 characters, or loads. FACECDM_CORPUS=all runs
every case, else a sample."""

import os
import time

import pytest
from bad_files import EITHER, LOADS, REFUSED, cases, sample
from good_files import KINDS, shrink

from facecdm.errors import LONGEST, FaceCDMError

SAMPLE, LARGE = 12, 4  # cases of a kind; of one whose files have many tensors or bytes
SECONDS, MEMORY = 10, 256 << 20  # of the processor, and bytes beyond four times the file, for one case


def peak_memory() -> int:
    """Bytes; 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def outcome(case, read, folder) -> str:
    """ "" where the case went as it must, else what went wrong."""
    folder.mkdir()
    path, before = case.write(folder), peak_memory()
    started = time.process_time()
    try:
        read(path)
        result = LOADS
    except FaceCDMError as error:
        result = REFUSED
        if not 0 < len(str(error)) <= LONGEST:
            return f"a message of {len(str(error))} characters"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    seconds, memory = time.process_time() - started, peak_memory() - before
    if seconds > SECONDS:
        return f"{seconds:.0f} s"
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if memory > MEMORY + 4 * size:
        return f"{memory >> 20} MB"
    return "" if case.expected in (EITHER, result) else f"{result}, not {case.expected}"


def _count(kind) -> int:
    large = len(kind.tensors) > 200 or sum(value.nbytes for value in kind.tensors.values()) > 10_000_000
    return LARGE if large else SAMPLE


@pytest.mark.parametrize("name", KINDS)
def test_bad_files(name, tmp_path, monkeypatch):
    shrink(monkeypatch)
    kind = KINDS[name]()
    found = cases(kind)
    if os.environ.get("FACECDM_CORPUS") != "all":
        found = sample(found, _count(kind), name)
    wrong = {case.name: text for i, case in enumerate(found) if (text := outcome(case, kind.read, tmp_path / str(i)))}
    assert not wrong, f"{len(wrong)} of {len(found)}: {wrong}"
