"""`python -m facecdm demo …`: train the demo model and put it into one file."""

import argparse
import dataclasses
from pathlib import Path

from ..devices import check_device, use_threads
from ..errors import BadFile, FaceCDMError
from . import pose_cli
from .paths import MODEL

PARTS = ("autoencoder", "text", "unet", "decoder", "vision")
SPLITS = ("train", "wide")
DEFAULTS = {
    "steps": (1500, 500, 20000, 4000, 1500),
    "batch": (16, 64, 64, 12, 128),
    "rate": (1e-3, 1e-3, 6e-4, 3e-3, 1e-3),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="demo_command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train the demo model on FaceWorld; resumes where it stopped")
    add = train.add_argument
    add(
        "part",
        choices=(*PARTS, "all", "export"),
        help="what to train; 'all' also exports, and 'export' writes the weights file from the run folder",
    )
    add("--data", type=Path, required=True, help="the FaceWorld folder")
    add(
        "--tokenizer", type=Path, required=True, help="a CLIP tokenizer's folder, such as ComfyUI's comfy/sd1_tokenizer"
    )
    add("--run", type=Path, default=Path("runs/demo"), help="checkpoints and logs")
    add("--image-size", type=int, default=256, help="pixels of what the model draws")
    add(
        "--decoder",
        type=int,
        nargs="*",
        default=pose_cli.DECODER,
        metavar="WIDTH",
        help="widths of the decoder to twice the latents' size; none: a decoder without it, latents twice as large",
    )
    add(
        "--begin",
        type=Path,
        metavar="WEIGHTS",
        help="a demo weights file: its autoencoder's encoder and text tower are taken as they are, and the U-Net "
        "starts from its weights",
    )
    add("--latent-channels", type=int, default=48)
    for name, kind in (("steps", int), ("batch", int), ("rate", float)):
        add(f"--{name}", type=kind, nargs="+", default=DEFAULTS[name], metavar="N", help=f"for {', '.join(PARTS)}")
    add("--save-every", type=int, default=250, metavar="STEPS", help="between checkpoints")
    add("--keep-pictures", type=int, default=0, metavar="N", help="keep the U-Net's averages every N pictures seen")
    add("--hours", type=float, default=0.0, metavar="H", help="pause the U-Net's training after this time; 0: no limit")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    add("--device", default=None, help="cuda or cpu (default: the GPU, if there is one)")
    add("--average", type=Path, metavar="FILE", help="export these kept averages (RUN/unet-PICTURES.pt)")
    add(
        "--models",
        type=Path,
        help="a models folder with insightface/models/buffalo_s: the U-Net's loss then weights faces more",
    )
    add("--compile", action="store_true", help="compile the U-Net: minutes once, faster steps")
    add("--out", type=Path, default=MODEL, help="the weights file that 'export' writes")

    pose_cli.add_arguments(commands)


def main(arguments: argparse.Namespace) -> int:
    return {"train": _train, "train-pose": pose_cli.main}[arguments.demo_command](arguments)


def _train(arguments: argparse.Namespace) -> int:
    from . import data, train, train_decoder, weights
    from .clip import CaptionTokens, open_tokenizer
    from .sizes import DemoSizes

    use_threads(arguments.threads)
    device = check_device(arguments.device)
    begin = weights.read(arguments.begin) if arguments.begin else None
    sizes = dataclasses.replace(
        begin.sizes if begin else DemoSizes(latent_channels=arguments.latent_channels),
        image_size=arguments.image_size,
        decoder=tuple(arguments.decoder),
    )
    plans = _plans(arguments)
    captions = [label["caption"] for label in data.read_labels(arguments.data, SPLITS)]
    tokens = CaptionTokens(open_tokenizer(arguments.tokenizer), captions)
    if begin and tokens.vocabulary.token_ids != begin.vocabulary.token_ids:
        raise BadFile(f"{arguments.begin} was trained on captions with other words than those of {arguments.data}")
    parts = _parts(sizes, begin is not None)
    wanted = (*parts, "export") if arguments.part == "all" else (arguments.part,)
    if missing := set(wanted) - {*parts, "export"}:
        raise FaceCDMError(
            f"{missing.pop()} is not trained here: --begin takes it from the file, or this model has no decoder of "
            "its own"
        )

    if set(wanted) & set(PARTS):
        portraits = data.load(arguments.data, SPLITS, sizes.image_size, arguments.run / "cache")

    def autoencoder():
        if begin:
            return train.autoencoder_from_file(begin, sizes)
        if sizes.decoder:
            return train.linear_autoencoder(portraits, sizes)
        return train.fit_autoencoder(portraits, sizes, plans["autoencoder"], arguments.run, device)

    def text():
        if begin:
            return train.text_tower_from_file(begin, tokens)
        return train.train_text(portraits, sizes, plans["text"], tokens, arguments.run, device)

    if "autoencoder" in wanted:
        autoencoder()
    if "text" in wanted:
        text()
    if "unet" in wanted:
        train.train_unet(
            portraits,
            sizes,
            plans["unet"],
            tokens,
            autoencoder().to(device),
            text().to(device),
            arguments.run,
            device,
            arguments.compile,
            begin.unet if begin else None,
            _face_weights(arguments, len(portraits)) if arguments.models else None,
        )
    if "decoder" in wanted:
        unet = weights.checkpoint(arguments.run / "unet.pt")["ema"]
        train_decoder.train_decoder(
            portraits,
            train.encode_all(portraits, autoencoder(), arguments.run / "cache" / "latents.npy", device),
            train_decoder.predictor(unet, sizes, tokens, text(), device),
            autoencoder(),
            plans["decoder"],
            arguments.run,
            device,
        )
    if "vision" in wanted:
        train.train_vision(portraits, sizes, plans["vision"], tokens, text(), arguments.run, device)
    if "export" in wanted:
        _export(arguments, sizes, tokens.vocabulary, begin)
    return 0


def _face_weights(arguments: argparse.Namespace, count: int):
    from . import poses
    from .emphasis import FaceWeights

    found = poses.load(
        arguments.data, SPLITS, count, arguments.run / "cache", lambda: pose_cli.open_analyzer(arguments.models)
    )
    return FaceWeights(found, count)


def _plans(arguments: argparse.Namespace) -> dict:
    """Make a plan for each part. Four numbers come from older commands, which trained no decoder."""
    from . import train

    columns = []
    for name in ("steps", "batch", "rate"):
        given, default = list(getattr(arguments, name)), DEFAULTS[name]
        if len(given) == len(PARTS) - 1:
            given.insert(PARTS.index("decoder"), default[PARTS.index("decoder")])
        if len(given) != len(PARTS):
            raise FaceCDMError(f"--{name} wants {len(PARTS)} numbers: {', '.join(PARTS)}")
        columns.append(given)
    only_unet = {"keep_pictures": arguments.keep_pictures, "hours": arguments.hours}
    return {
        part: train.Plan(
            int(steps),
            int(batch),
            rate,
            arguments.seed,
            save_every=arguments.save_every,
            **(only_unet if part == "unet" else {}),
        )
        for part, steps, batch, rate in zip(PARTS, *columns, strict=True)
    }


def _parts(sizes, begun: bool) -> tuple[str, ...]:
    """List the parts to train: the autoencoder or the sharp decoder, and the others.

    With weights from a file only the U-Net and the decoder are trained.
    """
    left_out = {"autoencoder"} if sizes.decoder else {"decoder"}
    return tuple(
        part for part in PARTS if part not in left_out | ({"autoencoder", "text", "vision"} if begun else set())
    )


def _export(arguments: argparse.Namespace, sizes, vocabulary, begin=None) -> None:
    from . import weights

    demo = weights.from_run(arguments.run, sizes, vocabulary, begin, arguments.average)
    weights.write(demo, arguments.out)
    trained = ", ".join(f"{part} {count}" for part, count in demo.steps.items())
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB (steps trained: {trained})")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m facecdm.demo.cli")
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
