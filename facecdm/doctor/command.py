"""`python -m facecdm doctor`: run the checks and print the report."""

import argparse
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import asdict

from .. import __version__, comfyui_folders
from .checks import examine
from .finding import MISSING, OK, Finding

FOR_OWN_MODELS = ("checkpoint", "adapter")  # topics required for portraits with SD1.5 or SDXL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    comfyui_folders.add_arguments(parser)
    add("--workflow", metavar="NAME", help="also list the model files of a shipped workflow, or of one in API form")
    add("--json", action="store_true", help="print a list of findings as JSON")


def main(options: argparse.Namespace) -> int:
    """Exit code: 0 if portraits can be made, 1 if something required is missing."""
    comfyui, base = comfyui_folders.find_folders(options.comfyui, options.base)
    findings = list(examine(comfyui, base, options.workflow, options.extra_model_paths_config))
    if options.json:
        report = json.dumps([asdict(finding) for finding in findings], indent=1, ensure_ascii=False)
    else:
        report = "\n".join(lines(findings))
    _print(report)
    return int(any(finding.level == MISSING for finding in findings))


def _print(text: str) -> None:
    """Print the report. The reader may close the pipe early, as `head` does."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes again when it exits


def lines(findings: list[Finding]) -> Iterator[str]:
    """The report as text."""
    yield f"FaceCDM {__version__}"
    for finding in findings:
        yield f"  {finding.level:8} {finding.text}"
        if finding.advice:
            yield f"  {'':8}   → {finding.advice}"
    yield _verdict(findings)


def _verdict(findings: list[Finding]) -> str:
    missing = sum(finding.level == MISSING for finding in findings)
    if missing:
        return f"{missing} missing: see the arrows"
    found = {finding.topic for finding in findings if finding.level == OK}
    if found.issuperset(FOR_OWN_MODELS):
        return "Portraits can be made here."
    demo = "Demo portraits can be made here. " if "demo model" in found else ""
    return f"{demo}For SD1.5 and SDXL get the models under the notes."
