"""The demo's weights of 256 pixels, from the shipped base to the adapter and its measures, in stages.

    python benchmarks/demo_recipe.py --faceworld FACEWORLD --comfyui COMFYUI --models COMFYUI/models --begin WEIGHTS \\
        --run runs/recipe [--begin-adapter ADAPTER] [--hours 10] [--threads 2] [--only STAGE …] [--smoke] [--list]
        [--ship]

WEIGHTS is a copy of the shipped demo.safetensors, since --ship replaces that file. ADAPTER is a copy of the shipped
adapter.safetensors, with its LoRA beside it; the adapter's training then goes on from both, and is shorter.

Every stage is a public command: --list prints them. A stage that has finished leaves RUN/done/STAGE and is skipped; an
interrupted one resumes when the recipe is started again. RUN/logs has what the commands print, and their time,
RUN/weights the four files, RUN/bars the measures, RUN/portraits what `python -m facecdm portrait` makes of them.
--hours pauses the base's training after this time; without it the stage trains on `Lengths.pictures` pictures
(benchmarks/recipe/plan.py). --smoke does a few steps of each stage on a part of FaceWorld, in minutes.

--ship copies the weights into the package, sets the picture size in the base model and in the texts, makes workflows,
subgraphs, thumbnails, gallery and portraits anew (minutes), and prints what is to be written by hand.
"""

import argparse
from pathlib import Path

import shared  # noqa: F401  # isort: skip  (puts the repository on the path)
from recipe.plan import Plan
from recipe.shipping import ship
from recipe.stages import run, show


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--faceworld", type=Path, required=True)
    add("--comfyui", type=Path, required=True, help="the ComfyUI folder (main.py in it)")
    add("--models", type=Path, required=True, help="a models folder with insightface/models/buffalo_s")
    add("--begin", type=Path, required=True, metavar="WEIGHTS", help="the demo weights that the training begins with")
    add(
        "--begin-adapter",
        type=Path,
        metavar="ADAPTER",
        help="the adapter that the training begins with, LoRA beside it",
    )
    add("--run", type=Path, default=Path("runs/recipe"))
    add("--hours", type=float, default=0.0, help="pause the base's training after this time; 0: no limit")
    add("--threads", type=int, default=2, help="cores")
    add("--judge", type=Path, help="a judge.pt made before (benchmarks/demo_judge.py); without it one is trained")
    add("--only", nargs="+", default=[], metavar="STAGE", help="these stages alone, even if they are done")
    add("--smoke", action="store_true", help="a few steps of each stage, on a part of FaceWorld")
    add("--list", action="store_true", help="print the commands and do nothing")
    add("--ship", action="store_true", help="put the weights into the package; see above")
    arguments = parser.parse_args()
    for name in ("faceworld", "comfyui", "models", "begin", "begin_adapter", "run"):
        if getattr(arguments, name):
            setattr(arguments, name, getattr(arguments, name).absolute())
    return arguments


def main() -> int:
    plan = Plan(parse())
    (ship if plan.how.ship else show if plan.how.list else run)(plan)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
