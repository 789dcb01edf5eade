"""The packs themselves in one process with ours, their loaders and nodes: for who has a clone of them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.mark.slow
@pytest.mark.parametrize("pack", ["ipadapter_plus", "instantid"])
def test_the_pack_agrees_and_reads_our_exports(comfyui, pack):
    """What is compared, and how closely, says the benchmark; it fails above 1e-4."""
    variable = f"FACECDM_{pack.upper()}"
    if not os.environ.get(variable):
        pytest.skip(f"set {variable} to a clone of ComfyUI_{pack}, which is not part of this project")
    ran = subprocess.run(
        [sys.executable, BENCHMARKS / f"beside_{pack}.py", "--comfyui", comfyui, "--pack", os.environ[variable]],
        capture_output=True,
        text=True,
        encoding="utf-8",
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
