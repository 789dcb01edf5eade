"""`python -m facecdm demo …`: train the demo model and put it into one file."""

import argparse
from pathlib import Path

from ..errors import MissingModel, MissingPackage
from . import pose_cli
from .paths import MODEL

PARTS = ("autoencoder", "text", "unet", "vision")
SPLITS = ("train", "wide")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(dest="demo_command", required=True, metavar="COMMAND")
    train = commands.add_parser("train", help="train the demo model on FaceWorld; resumes where it stopped")
    add = train.add_argument
    names = tuple(part.upper() for part in PARTS)
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
    add("--image-size", type=int, default=128, help="pixels; 256 is for a GPU")
    add("--latent-channels", type=int, default=48)
    add("--steps", type=int, nargs=4, default=(1500, 500, 5000, 1500), metavar=names)
    add("--batch", type=int, nargs=4, default=(16, 64, 32, 128), metavar=names)
    add("--rate", type=float, nargs=4, default=(1e-3, 1e-3, 8e-4, 1e-3), metavar=names, help="learning rates")
    add("--seed", type=int, default=0)
    add("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    add("--device", default=None, help="cuda or cpu; the GPU where there is one")
    add("--compile", action="store_true", help="compile the U-Net: minutes once, faster steps")
    add("--out", type=Path, default=MODEL, help="the weights file that 'export' writes")

    pose_cli.add_arguments(commands)


def main(arguments: argparse.Namespace) -> int:
    return {"train": _train, "train-pose": pose_cli.main}[arguments.demo_command](arguments)


def _train(arguments: argparse.Namespace) -> int:
    import torch

    from . import data, train
    from .clip import CaptionTokens
    from .sizes import DemoSizes

    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    sizes = DemoSizes(image_size=arguments.image_size, latent_channels=arguments.latent_channels)
    plans = dict(
        zip(
            PARTS,
            (
                train.Plan(steps, batch, rate, arguments.seed)
                for steps, batch, rate in zip(arguments.steps, arguments.batch, arguments.rate, strict=True)
            ),
            strict=True,
        )
    )
    captions = [label["caption"] for label in data.read_labels(arguments.data, SPLITS)]
    tokens = CaptionTokens(_tokenizer(arguments.tokenizer), captions)
    wanted = (*PARTS, "export") if arguments.part == "all" else (arguments.part,)

    if set(wanted) & set(PARTS):
        portraits = data.load(arguments.data, SPLITS, sizes.image_size, arguments.run / "cache")

    def autoencoder():
        return train.fit_autoencoder(portraits, sizes, plans["autoencoder"], arguments.run, device)

    def text():
        return train.train_text(portraits, sizes, plans["text"], tokens, arguments.run, device)

    if "autoencoder" in wanted:
        autoencoder()
    if "text" in wanted:
        text()
    if "unet" in wanted:
        train.train_unet(
            portraits, sizes, plans["unet"], tokens, autoencoder(), text(), arguments.run, device, arguments.compile
        )
    if "vision" in wanted:
        train.train_vision(portraits, sizes, plans["vision"], tokens, text(), arguments.run, device)
    if "export" in wanted:
        _export(arguments, sizes, tokens.vocabulary)
    return 0


def _export(arguments: argparse.Namespace, sizes, vocabulary) -> None:
    from . import weights

    demo = weights.from_run(arguments.run, sizes, vocabulary)
    weights.write(demo, arguments.out)
    trained = ", ".join(f"{part} {count}" for part, count in demo.steps.items())
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB (steps trained: {trained})")


def _tokenizer(folder: Path):
    try:
        from transformers import CLIPTokenizer
    except ImportError as error:
        raise MissingPackage("training needs transformers: pip install transformers") from error
    if not (folder / "vocab.json").is_file():
        raise MissingModel(
            f"no CLIP tokenizer in {folder} (vocab.json is missing); --tokenizer wants a folder such "
            "as ComfyUI's comfy/sd1_tokenizer"
        )
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m facecdm.demo.cli")
    add_arguments(parser)
    raise SystemExit(main(parser.parse_args()))
