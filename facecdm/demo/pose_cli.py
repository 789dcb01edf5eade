"""`python -m facecdm demo train-pose …`: train the pose ControlNet of a trained demo model."""

import argparse
from pathlib import Path

from ..devices import check_device, use_threads
from .paths import POSE_CONTROLNET

SPLITS = ("train", "wide")
PACK = "buffalo_s"
DECODER = (128, 96, 48)  # default widths of the decoder to twice the size


def add_arguments(commands) -> None:
    parser = commands.add_parser("train-pose", help="train the demo model's pose ControlNet; resumes where it stopped")
    add = parser.add_argument
    add("--data", type=Path, required=True, help="the FaceWorld folder")
    add("--tokenizer", type=Path, required=True, help="a CLIP tokenizer's folder, as for train")
    add(
        "--models",
        type=Path,
        required=True,
        help=f"a models folder with insightface/models/{PACK}, its 2d106det.onnx included: it finds the key points",
    )
    add("--run", type=Path, default=Path("runs/demo"), help="the folder in which `train` left autoencoder, text, U-Net")
    add("--weights", type=Path, help="a demo weights file to train it for, instead of the parts in --run")
    add("--image-size", type=int, default=256, help="as for train; of the parts in --run")
    add("--decoder", type=int, nargs="*", default=DECODER, metavar="WIDTH", help="as for train")
    add("--latent-channels", type=int, default=48, help="as for train")
    add("--pictures", type=int, default=7000, help="how many pictures' key points to find, once")
    add("--steps", type=int, default=2000)
    add("--batch", type=int, default=16)
    add("--rate", type=float, default=1e-3)
    add("--seed", type=int, default=0)
    add("--save-every", type=int, default=100, help="steps between checkpoints")
    add("--threads", type=int, default=0, help="CPU threads; 0 leaves the choice to torch")
    add("--device", default=None, help="cuda or cpu (default: the GPU, if there is one)")
    add("--export-only", action="store_true", help="write the weights file from the run as it is")
    add("--out", type=Path, default=POSE_CONTROLNET, help="the weights file: a control-LoRA for ComfyUI's loader too")


def main(arguments: argparse.Namespace) -> int:
    from .sizes import DemoSizes
    from .weights import read

    base = read(arguments.weights) if arguments.weights else None
    sizes = DemoSizes(
        image_size=arguments.image_size, latent_channels=arguments.latent_channels, decoder=tuple(arguments.decoder)
    )
    sizes = base.sizes if base else sizes
    if not arguments.export_only:
        _train(arguments, sizes, base)
    _export(arguments, sizes)
    return 0


def _train(arguments: argparse.Namespace, sizes, base) -> None:
    from . import data, poses, train, train_pose
    from .clip import CaptionTokens, open_tokenizer

    use_threads(arguments.threads)
    device = check_device(arguments.device)
    cache = arguments.run / "cache"
    found = poses.load(arguments.data, SPLITS, arguments.pictures, cache, lambda: open_analyzer(arguments.models))
    portraits = data.load(arguments.data, SPLITS, sizes.image_size, cache)
    tokens = CaptionTokens(open_tokenizer(arguments.tokenizer), portraits.captions)
    if base is None:
        autoencoder, clip = train_pose.trained_parts(portraits, sizes, tokens, arguments.run, device)
    else:
        autoencoder = train.autoencoder_from_file(base, sizes).to(device)
        clip = train.text_tower_from_file(base, tokens).to(device)
    plan = train.Plan(
        arguments.steps, arguments.batch, arguments.rate, arguments.seed, warmup=50, save_every=arguments.save_every
    )
    unet = base.unet if base else None
    train_pose.train_pose(portraits, found, sizes, plan, tokens, autoencoder, clip, arguments.run, device, unet)


def open_analyzer(models: Path):
    from ..faces.analyzer import open_pack

    return open_pack([models / "insightface"], PACK, landmarks=True)


def _export(arguments: argparse.Namespace, sizes) -> None:
    from .pose_net import write
    from .weights import checkpoint

    state = checkpoint(arguments.run / "pose.pt")
    write(state["ema"], sizes, state["step"], arguments.out)
    print(f"{arguments.out}: {arguments.out.stat().st_size / 1e6:.1f} MB (steps trained: {state['step']})")
