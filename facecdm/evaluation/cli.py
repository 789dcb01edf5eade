"""`python -m facecdm evaluate TABLE`: identity similarity and prompt adherence of generated pictures."""

import argparse
from pathlib import Path

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


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
    if not arguments.overwrite:
        report.check_folder(arguments.out)
    chosen = samples.read(arguments.table)
    others = (
        sorted(path for path in arguments.others.rglob("*") if path.suffix.lower() in PICTURES)
        if arguments.others
        else None
    )
    score, judge = _prompt_measures(arguments, [one.attributes for one in chosen if one.attributes])
    recognisers = [
        InsightFace(arguments.faces, arguments.pack or default_pack([arguments.faces])),
        *([Dlib()] if arguments.dlib else []),
    ]
    evaluator = Evaluator(recognisers, cached_opener(), score, others, judge)
    with tqdm(total=len(chosen), desc="evaluating", unit="picture", mininterval=0.5) as bar:
        result = evaluator.run(chosen, lambda done, _: bar.update(done - bar.n))
    written = report.write(result, arguments.out)
    print(report.markdown(result))
    print(f"report: {written['report.html']}")
    return 0


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
