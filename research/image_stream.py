"""What does the whole-image stream know about the person?

    python -m research.image_stream --data DATA [--adapters NAME=FILE …]

DATA is the demo adapter's data set (docs/demo-model.md). The first table says how often a held-out person's nearest
other photo is their own, by the image encoder's states and by the face embedding, each in the directions that separate
the other people best. The second says how much the tokens of each stream differ between people, as a share of their
size, in a new adapter, the demo's, and the given ones. The third says what the interplay of those that have one does to
the face tokens, as a share of their size. The result: the demo's image encoder can hardly tell people apart, training
takes most of the differences out of the image tokens, and so the interplay learns nothing about a person from them.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from facecdm.adapter.model import TripletAdapter
from facecdm.adapter.native import load_adapter
from facecdm.demo.paths import ADAPTER, in_use
from facecdm.demo.weights import read
from facecdm.hosts.diffusers.denoiser import demo_denoiser
from facecdm.training.dataset.data_set import DataSet
from facecdm.training.initialise import identity_directions, random_adapter

FITTED, HELD_OUT, PHOTOS = 1200, 200, 4  # people, people, photos of each
COMPONENTS, DIRECTIONS, COMPARED = 300, 64, 128


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", type=Path, required=True)
    add("--adapters", nargs="*", default=[], metavar="NAME=FILE", help="besides the demo's")
    add("--threads", type=int, default=0)
    return parser.parse_args()


def photos_of(data: DataSet, people: list[list[int]]) -> tuple[Tensor, Tensor, Tensor]:
    """(embeddings [N, D], vision states [N, M], whose they are [N])."""
    chosen = [picture for pictures in people for picture in pictures[:PHOTOS]]
    faces, vision = data.features(chosen)[:2]
    return faces, vision.flatten(1), torch.arange(len(people)).repeat_interleave(PHOTOS)


def nearest_is_own(features: Tensor, whose: Tensor) -> float:
    features = F.normalize(features - features.mean(0), dim=1)
    scores = (features @ features.T).fill_diagonal_(-1)
    return (whose[scores.argmax(1)] == whose).float().mean().item()


def in_best_directions(fitted: Tensor, whose: Tensor, others: Tensor) -> Tensor:
    """`others` in the directions that separate the people of `fitted` best."""
    mean = fitted.mean(0)
    return (others - mean) @ identity_directions(fitted - mean, whose, DIRECTIONS).T


def difference(tokens: Tensor) -> float:
    """How much tokens [N, count, width] differ between N people, as a share of their size."""
    return ((tokens - tokens.mean(0)).square().mean() / tokens.square().mean()).sqrt().item()


def size(tokens: Tensor) -> float:
    return tokens.square().mean().sqrt().item()


def interplay_effect(adapter: TripletAdapter, tokens: dict[str, Tensor], text: Tensor) -> tuple[float, ...]:
    """Changes of the face tokens, as a share of their size: by the interplay, and of its result by another person's
    image tokens and by another prompt.

    tokens  of N people
    text    prompts [N, T, W]
    """
    after = adapter.apply_interplay(tokens, text)["face"]
    another_image = adapter.apply_interplay({**tokens, "image": tokens["image"].roll(1, 0)}, text)["face"]
    another_prompt = adapter.apply_interplay(tokens, text.roll(1, 0))["face"]
    changes = after - tokens["face"], another_image - after, another_prompt - after
    return tuple(size(change) / size(tokens["face"]) for change in changes)


@torch.inference_mode()
def main() -> int:
    arguments = parse()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    data = DataSet(arguments.data)
    people = [pictures for pictures in data.people.values() if len(pictures) >= PHOTOS]
    people = [people[i] for i in torch.randperm(len(people), generator=torch.Generator().manual_seed(0))]
    faces, states, whose = photos_of(data, people[:FITTED])
    faces_out, states_out, whose_out = photos_of(data, people[FITTED : FITTED + HELD_OUT])
    torch.manual_seed(0)
    main_components = torch.pca_lowrank(states, COMPONENTS)[2]
    found = {
        "image encoder": in_best_directions(states @ main_components, whose, states_out @ main_components),
        "face embedding": in_best_directions(faces, whose, faces_out),
    }
    print(f"| features | the nearest photo is the person's own ({HELD_OUT} people) |\n|---|---|")
    for name, features in found.items():
        print(f"| {name} | {nearest_is_own(features, whose_out):.1%} |")

    given = dict(text.split("=", 1) for text in arguments.adapters)
    adapters: dict[str, TripletAdapter] = {
        "new": random_adapter(demo_denoiser(read()), data, image_tokens=4, image_layers=1),
        "the demo's": load_adapter(in_use(ADAPTER)),
        **{name: load_adapter(Path(file)) for name, file in given.items()},
    }
    chosen = [pictures[0] for pictures in people[:COMPARED]]
    features = data.features(chosen)[:2]
    print("\n| adapter | face tokens differ by | image tokens differ by |\n|---|---|---|")
    for name, adapter in adapters.items():
        tokens = adapter.project(*features)
        print(f"| {name} | {difference(tokens['face']):.1%} | {difference(tokens['image']):.1%} |")

    print(
        "\n| adapter | the interplay changes face tokens by | another image by | another prompt by |\n|---|---|---|---|"
    )
    text = data.load(chosen).prompt.states
    for name, adapter in adapters.items():
        if adapter.depends_on_text:
            effect = interplay_effect(adapter, adapter.project(*features), text)
            print(f"| {name} | {' | '.join(f'{change:.1%}' for change in effect)} |")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
