"""`python -m facecdm evaluate TABLE`: identity similarity and prompt adherence of generated pictures."""

import argparse
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "table",
        type=Path,
        help="CSV or JSONL: picture, person, condition, reference, and if known held_out, prompt, plain, yaw, "
        "strength, attributes, line",
    )
    add("--out", type=Path, default=Path("evaluation"), help="folder of the report (default: evaluation)")
    add("--overwrite", action="store_true", help="replace a report in that folder")
    add("--faces", type=Path, required=True, metavar="DIR", help="models/insightface of a ComfyUI")
    add("--pack", metavar="NAME", help="the face pack in it (default: buffalo_l if it is there, else another that is)")
    add("--dlib", action="store_true", help="also measure with dlib, which no training used")
    add(
        "--others",
        type=Path,
        metavar="DIR",
        help="other people in the same kind of picture; their mean embedding is subtracted",
    )
    add(
        "--clip",
        type=Path,
        metavar="DIR",
        help="folder of a CLIP model, for the similarity to the prompt and for the attributes",
    )
    add(
        "--judge",
        type=Path,
        metavar="FILE",
        help="reads the attributes instead of CLIP; made by benchmarks/demo_judge.py for FaceWorld's portraits",
    )


def main(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..faces.packs import default_pack
    from . import report, samples
    from .evaluate import Evaluator
    from .pictures import cached_opener
    from .recognisers import Dlib, InsightFace

    report.check_plots()
    notes: list[str] = []
    chosen = samples.read(arguments.table, notes)
    report.check_folder(arguments.out, arguments.table, arguments.overwrite)
    others = _pictures_in(arguments.others) if arguments.others else None
    notes += _without_effect(arguments, chosen)
    score, judge = _prompt_measures(arguments, [one.attributes for one in chosen if one.attributes])
    first = InsightFace(arguments.faces, arguments.pack or default_pack([arguments.faces]))
    recognisers = [first, *([Dlib(first.recognise)] if arguments.dlib else [])]
    evaluator = Evaluator(recognisers, cached_opener(), score, others, judge, notes)
    with tqdm(total=len(chosen), desc="evaluating", unit="picture", mininterval=0.5) as bar:
        result = evaluator.run(chosen, lambda done, _: bar.update(done - bar.n))
    written = report.write(result, arguments.out)
    print(report.markdown(result))
    print(f"report: {written['report.html']}")
    return 0


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures in `folder` and below. Raises FaceCDMError if there are none."""
    from ..errors import FaceCDMError
    from ..pictures import SUFFIXES

    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise FaceCDMError(f"--others: there are no pictures in {folder}")
    return found


def _without_effect(arguments: argparse.Namespace, chosen: list) -> list[str]:
    """Notes on columns and options without effect."""
    given = {name for name in ("prompt", "attributes", "plain", "strength") for one in chosen if _has(one, name)}
    read = {"prompt": arguments.clip, "attributes": arguments.clip or arguments.judge}
    notes = []
    if "prompt" in given and not read["prompt"]:
        notes.append("prompt: not measured without --clip")
    if "attributes" in given and not read["attributes"]:
        notes.append("attributes: not measured without --clip or --judge")
    if arguments.clip and not given & {"prompt", "attributes"}:
        notes.append("--clip has no effect without the columns prompt or attributes")
    measured = {name for name in given if read.get(name, name != "strength")}
    if "strength" in given and not measured:
        notes.append("strength: no curve is drawn, since nothing measures what the pictures keep of their prompt")
    return notes


def _has(sample, name: str) -> bool:
    return getattr(sample, name) not in ("", None)


def _prompt_measures(arguments: argparse.Namespace, attributes: list[str]) -> tuple:
    """(the score of picture and prompt, the judge of `attributes`), None where nothing was given for it."""
    from ..errors import FaceCDMError
    from .attributes import EXAMPLE, values_of
    from .clip_score import ClipFolder, clip_measures

    values = values_of(attributes)
    if not values and arguments.judge:
        raise FaceCDMError(f"--judge needs the column attributes in {arguments.table}, such as {EXAMPLE!r}")
    score, read = None, None
    if arguments.clip:
        score, read = clip_measures(ClipFolder(arguments.clip), {} if arguments.judge else values)
    if arguments.judge:
        from . import judge

        read = judge.load(arguments.judge)
        judge.check_values(read, values)
    return score, read
