"""`python -m facecdm evaluate TABLE`: identity similarity and prompt adherence of generated pictures."""

import argparse
from pathlib import Path

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "table",
        type=Path,
        help="CSV or JSONL: picture, person, condition, reference, and if known held_out, prompt, plain, yaw, strength",
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
    add("--clip", type=Path, metavar="DIR", help="folder of a CLIP model, for prompt adherence")


def main(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..faces.packs import default_pack
    from . import report, samples
    from .evaluate import Evaluator
    from .pictures import cached_opener
    from .recognisers import Dlib, InsightFace

    if not arguments.overwrite:
        report.check_folder(arguments.out)
    chosen = samples.read(arguments.table)
    others = (
        sorted(path for path in arguments.others.rglob("*") if path.suffix.lower() in PICTURES)
        if arguments.others
        else None
    )
    score = None
    if arguments.clip:
        from .clip_score import ClipScore

        score = ClipScore(arguments.clip)
    recognisers = [
        InsightFace(arguments.faces, arguments.pack or default_pack([arguments.faces])),
        *([Dlib()] if arguments.dlib else []),
    ]
    evaluator = Evaluator(recognisers, cached_opener(), score, others)
    with tqdm(total=len(chosen), desc="evaluating", unit="picture", mininterval=0.5) as bar:
        result = evaluator.run(chosen, lambda done, _: bar.update(done - bar.n))
    written = report.write(result, arguments.out)
    print(report.markdown(result))
    print(f"report: {written['report.html']}")
    return 0
