"""`python -m facecdm evaluate TABLE`: how much pictures show the person, and still follow the prompt."""

import argparse
from pathlib import Path

PICTURES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "table",
        type=Path,
        help="CSV or JSONL: picture, person, condition, reference, and where known held_out, "
        "prompt, plain, yaw, strength",
    )
    add("--out", type=Path, default=Path("evaluation"), help="folder of the report")
    add("--faces", type=Path, required=True, metavar="DIR", help="models/insightface of a ComfyUI")
    add("--pack", metavar="NAME", help="the face pack in it (default: buffalo_l if it is there, else another that is)")
    add("--dlib", action="store_true", help="also judge with dlib, which took part in no training")
    add(
        "--others",
        type=Path,
        metavar="DIR",
        help="pictures of other people of the same kind, whose mean embedding is taken off",
    )
    add("--clip", type=Path, metavar="DIR", help="a CLIP model's folder, for prompt following")


def main(arguments: argparse.Namespace) -> int:
    from tqdm import tqdm

    from ..faces.packs import default_pack
    from . import report, samples
    from .evaluate import Evaluator
    from .pictures import opener
    from .recognisers import Dlib, InsightFace

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
    evaluator = Evaluator(recognisers, opener(), score, others)
    with tqdm(total=len(chosen), desc="evaluating", unit="picture", mininterval=0.5) as bar:
        result = evaluator.run(chosen, lambda done, _: bar.update(done - bar.n))
    written = report.write(result, arguments.out)
    print(report.markdown(result))
    print(f"report: {written['report.html']}")
    return 0
