"""Initialisation of a new adapter: the bottleneck from the data set's people, the rest from the base model."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapter.config import AdapterConfig, content_of
from ..adapter.model import TripletAdapter
from .denoiser import Denoiser
from .position_init import can_init_positions, init_positions
from .source import Source

RIDGE = 0.03  # share of the mean variance within people that is added to it, so that every ratio is finite
SMALLEST = 0.05  # minimum scale of a direction; smaller ones could hardly be trained


def new_adapter(
    denoiser: Denoiser, data: Source, recogniser: str = "", seed: int = 0, positions: bool = True, **sizes
) -> TripletAdapter:
    """A `random_adapter`, initialised from the data set; without `positions` its face tokens and keys stay random."""
    adapter = random_adapter(denoiser, data, recogniser, seed, **sizes)
    _init_from_data(adapter, denoiser, data, positions)
    return adapter.requires_grad_(False)


def random_adapter(denoiser: Denoiser, data: Source, recogniser: str = "", seed: int = 0, **sizes) -> TripletAdapter:
    """An adapter for the denoiser's base model and the data set's encoders, not yet initialised from its pictures.

    `sizes` are AdapterConfig's; an `image_width` of 0 leaves the image stream out.
    """
    sample = data.features([0])
    image = 0 if sample[1] is None else sample[1].shape[-1]
    if sizes.get("face_content") is None:
        sizes["face_content"] = content_of(sizes.get("face_tokens", AdapterConfig.face_tokens))
    config = AdapterConfig.new(
        denoiser.layer_map,
        face_width=sample[0].shape[-1],
        recogniser=recogniser or data.recogniser,
        **{"image_width": image} | sizes,
    )
    torch.random.default_generator.manual_seed(seed)
    return TripletAdapter(config).init_from_text(denoiser.text_keys_values())


def initialised(adapter: TripletAdapter, denoiser: Denoiser, data: Source, positions: bool = True) -> TripletAdapter:
    """A frozen copy for training that names the data set's recogniser. A new adapter is initialised from the data set.

    An adapter is initialised from faces only once. Without `positions`, face tokens and keys stay random.
    Tensors that are not written to are shared with the given adapter.
    """
    state = adapter.state_dict()
    with torch.device("meta"):
        copy = TripletAdapter(replace(adapter.config, recogniser=data.recogniser))
    copy.load_state_dict(
        {
            name: value.detach().clone()
            if value.is_inference() or name.startswith("face_projector")
            else value.detach()
            for name, value in state.items()
        },
        assign=True,
    )
    if adapter.is_new and not adapter.face_projector.mean.any():
        _init_from_data(copy, denoiser, data, positions)
    return copy.requires_grad_(False)


def _init_from_data(adapter: TripletAdapter, denoiser: Denoiser, data: Source, positions: bool) -> None:
    init_bottleneck(adapter, *embeddings_by_person(data))
    if positions and denoiser.can_decode and can_init_positions(adapter, data):
        init_positions(adapter, denoiser, data)


@torch.no_grad()
def init_streams(adapter: TripletAdapter) -> TripletAdapter:
    """Set gates to one and values (of a DiT, the cells' output) to zero: still an exact no-op, and faster to train than
    zero gates.

    Use this only if the values are trained in full: a low-rank addition needs the text's values to add to. Tensors are
    replaced, not written to, since they may be shared.
    """
    for stream in adapter.streams.values():
        stream.init_for_full_training()
    return adapter


def embeddings_by_person(data: Source, most: int = 20_000) -> tuple[Tensor, Tensor]:
    """Unit embeddings [N, W] and person numbers [N] int64 of evenly spaced people, each with all pictures."""
    people = list(data.people.values())
    every = max(len(data) // most, 1)
    chosen = [picture for pictures in people[::every] for picture in pictures]
    whose = torch.tensor([number for number, pictures in enumerate(people[::every]) for _ in pictures])
    return F.normalize(data.features(chosen, vision=False)[0].float(), dim=1), whose


@torch.no_grad()
def init_bottleneck(adapter: TripletAdapter, faces: Tensor, people: Tensor) -> None:
    """Centre the face projector on `faces` [N, W] and let its code distinguish the `people` [N].

    The code's rows are `identity_directions`. Before a GELU they come in pairs of opposite sign, since
    gelu(c) − gelu(−c) = c. Rows without a direction are not changed.
    """
    projector = adapter.face_projector
    projector.mean.copy_(faces.mean(0))
    scaled = (faces - projector.mean) * faces.shape[1] ** 0.5
    signs = (1,) if projector.content else (1, -1)
    directions = identity_directions(scaled, people, len(projector.reduce.weight) // len(signs))
    count = len(signs) * len(directions)
    if not count:
        return
    code = scaled @ directions.T
    back = torch.linalg.lstsq(code.double(), scaled.double()).solution.T.to(scaled)
    projector.reduce.weight[:count] = torch.cat([sign * directions for sign in signs])
    projector.reduce.bias.zero_()
    projector.restore.weight[:, :count] = torch.cat([sign * back for sign in signs], 1) / len(signs)
    projector.restore.bias.zero_()


def identity_directions(faces: Tensor, people: Tensor, most: int) -> Tensor:
    """[K ≤ most, W]: directions of centred `faces` [N, W] in which people differ more than photos of one person.

    These are Fisher's discriminants (Fisher 1936), scaled by their share of identity and to unit mean variance. If too
    few people have several photos, they are the principal directions.
    """
    faces = faces.double()
    known, whose, count = people.unique(return_inverse=True, return_counts=True)
    spare = len(faces) - len(known)
    if spare < faces.shape[1] or len(known) <= most:
        return principal_directions(faces, most).float()
    means = torch.zeros(len(known), faces.shape[1], dtype=faces.dtype).index_add_(0, whose, faces) / count[:, None]
    within = (faces - means[whose]).T @ (faces - means[whose]) / spare
    between = torch.cov(means.T) - within / count.double().mean()
    within += within.diagonal().mean() * RIDGE * torch.eye(len(within), dtype=within.dtype)
    white = torch.linalg.inv(torch.linalg.cholesky(within))
    ratio, turned = torch.linalg.eigh(white @ between @ white.T)
    ratio, turned = ratio.flip(0)[:most].clamp(min=0), turned.flip(1)[:, :most]
    directions = turned.T @ white * (ratio / (ratio + 1)).clamp(min=SMALLEST)[:, None]
    return (directions / (faces @ directions.T).square().mean().sqrt()).float()


def principal_directions(faces: Tensor, most: int) -> Tensor:
    """[K ≤ most, W]: the first principal components of centred `faces` [N, W], each of unit variance."""
    _, values, directions = torch.linalg.svd(faces, full_matrices=False)
    rank = min(most, len(faces) - 1)
    spread = (values[:rank] / len(faces) ** 0.5).clamp(min=1e-6)
    return directions[:rank] / spread[:, None]
