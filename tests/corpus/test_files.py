"""Bad weight files: each is refused with a typed error of at most 1,000 characters, or loads. FACECDM_CORPUS=all runs
every case, else a sample."""

import os
import re
import shutil
import time
from pathlib import Path

import pytest
from bad_files import EITHER, LOADS, REFUSED, cases, sample
from good_files import KINDS, shrink

from facecdm.errors import LONGEST, FaceCDMError

ALL = os.environ.get("FACECDM_CORPUS") == "all"
SAMPLE, LARGE = 12, 4  # cases of a kind; of one whose files have many tensors or bytes
SECONDS = 10  # of the processor, for one case
FEW = 32 << 20  # bytes beyond twice the file: Python's objects for names and shapes
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def memory(name: str) -> int:
    """VmRSS: bytes in use; VmHWM: the most since the last reset. 0 where the system does not say."""
    if not STATUS.exists():
        return 0
    return int(re.search(rf"{name}:\s+(\d+)", STATUS.read_text())[1]) * 1024


def outcome(case, read, folder) -> str:
    """ "" where the case went as it must, else what went wrong."""
    folder.mkdir()
    path = case.write(folder)
    if RESET.exists():
        RESET.write_text("5")
    before, started = memory("VmRSS"), time.process_time()
    try:
        read(path)
        result = LOADS
    except FaceCDMError as error:
        result = REFUSED
        if not 0 < len(str(error)) <= LONGEST:
            return f"a message of {len(str(error))} characters"
    except Exception as error:
        return f"untyped {type(error).__name__}: {str(error)[:200]}"
    seconds, used = time.process_time() - started, memory("VmHWM") - before
    if seconds > SECONDS:
        return f"{seconds:.0f} s"
    size = sum(file.stat().st_size for file in folder.iterdir() if file.is_file())
    if used > FEW + (4 if case.name == "fp8" else 2) * size:  # fp8 becomes fp32
        return f"{used >> 20} MB for a file of {size:,} bytes"
    shutil.rmtree(folder)
    return "" if case.expected in (EITHER, result) else f"{result}, not {case.expected}"


def _count(kind) -> int:
    large = len(kind.tensors) > 200 or sum(value.nbytes for value in kind.tensors.values()) > 10_000_000
    return LARGE if large else SAMPLE


@pytest.mark.parametrize("name", KINDS)
def test_bad_files(name, tmp_path, monkeypatch):
    shrink(monkeypatch)
    kind = KINDS[name]()
    found = every = cases(kind)
    if not ALL:
        found = sample(every, _count(kind), name)
    kind.read(every[0].write(tmp_path))  # the unchanged file; torch imports what it needs
    wrong = {case.name: text for i, case in enumerate(found) if (text := outcome(case, kind.read, tmp_path / str(i)))}
    assert not wrong, f"{len(wrong)} of {len(found)}: {wrong}"
    print(f"{name}: {len(found)} cases")
