"""How a new adapter begins to see: each token of the face is a place in it, which the U-Net's queries find.

A token that begins at random says the same to every place of the picture, until values, then keys, then both together
have been learnt. Regressions on the data set, without a gradient, spare a training that: what an embedding says of each
part of the upright face becomes that part's token; and in every layer a query points at the part that it stands in, as
far as it knows where it stands.
"""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapter.model import TripletAdapter
from ..faces.standing import REACH, SIZE, centres, from_crop, standing
from .denoiser import Denoiser
from .draws import generator
from .losses.arcface import upright
from .losses.linear import FEWEST_PEOPLE, decoded, linear_decoder, ridge
from .rows import moved
from .source import Source

PIXELS = 48          # of the upright face, per side
MOST = 6000          # pictures whose faces are looked at
BATCH = 32           # of them at a time
WATCHED = 12         # batches of 8 pictures whose queries are watched
NOISY = (0.3, 1.0)   # of all steps: where the watched pictures' noise lies
RIDGE = 0.03
LOUDNESS = 1.2       # of what tells a token's place, against what it says of the person, 1
BLUR = 0.03          # added to the variance with which a query knows its place, in half crops


def can_begin(adapter: TripletAdapter, data: Source) -> bool:
    """Whether the tokens make a square, and there are people enough to say in what they differ."""
    side = adapter.config.places_side
    return side > 1 and side * side == adapter.config.face_tokens and len(data.people) >= FEWEST_PEOPLE


@torch.no_grad()
def begin_places(adapter: TripletAdapter, denoiser: Denoiser, data: Source) -> TripletAdapter:
    """Give a new adapter's face tokens and its face keys in every layer their places; values and gates stay.

    So an adapter that did nothing still does nothing. The same data give the same adapter. Tensors are replaced, not
    written to: others may hold them.
    """
    side = adapter.config.places_side
    where = _begin_tokens(adapter, denoiser, data, side)
    _begin_keys(adapter, _watch(denoiser, data), where, centres(side))
    adapter.config = replace(adapter.config, places=True)
    return adapter


def _begin_tokens(adapter: TripletAdapter, denoiser: Denoiser, data: Source, side: int) -> Tensor:
    """Each token: in its first features what the person's face is like there, in the others which place it is.

    Gives the tokens of a face like all others [T, context], without what they say of a person.
    """
    projector, count, width = adapter.face_projector, side * side, adapter.config.layer_map.context
    codes, parts = _faces(adapter, denoiser, data, side)
    middle = codes.mean(0)
    weights = ridge(codes - middle, (parts - parts.mean(0)).flatten(1), RIDGE)
    weights = weights.view(count, -1, codes.shape[1])  # [T, 3p², r]
    _, _, turned = torch.linalg.svd(weights.movedim(1, 2).flatten(0, 1), full_matrices=False)
    kept = turned[:width // 2]
    said = torch.einsum("kp,tpr->tkr", kept, weights)
    said = said / F.linear(codes - middle, said.flatten(0, 1)).square().mean().sqrt()
    uplift, where = torch.zeros(count, width, codes.shape[1]), torch.zeros(count, width)
    uplift[:, :len(kept)] = said
    where[:, len(kept):] = torch.randn(count, width - len(kept), generator=generator("places", 0)) * LOUDNESS
    where[:, len(kept):len(kept) + 2] = centres(side) * LOUDNESS
    projector.uplift.weight.data = uplift.flatten(0, 1)
    projector.uplift.bias.data = where.flatten() - F.linear(middle, uplift.flatten(0, 1))
    tokens = projector.norm(where)
    tokens[:, :len(kept)] = 0
    return tokens


def _faces(adapter: TripletAdapter, denoiser: Denoiser, data: Source, side: int) -> tuple[Tensor, Tensor]:
    """Codes of faces after their GELU [N, r], and the mean of the person's upright faces, part by part [N, T, 3p²]."""
    from tqdm import tqdm

    decoder, pixels = linear_decoder(denoiser, data), max(PIXELS // side, 1) * side
    people = list(data.people)
    chosen = set(people[::max(-(-len(data) // MOST), 1)])
    codes, faces, whose = [], [], []
    for bucket in data.buckets:
        wanted = [picture for picture in bucket if data.identity(picture) in chosen]
        for start in tqdm(range(0, len(wanted), BATCH), desc="looking at faces", unit="batch", leave=False):
            rows = data.load(wanted[start:start + BATCH])
            there = rows.box[:, 2] > rows.box[:, 0]
            shown = decoded(rows.latents[there].to(denoiser.device).float(), decoder)
            faces.append(F.adaptive_avg_pool2d(upright(shown, widened(rows.keypoints[there], shown)), pixels).cpu())
            codes.append(F.gelu(adapter.face_projector.code(F.normalize(rows.face[there].float(), dim=1))))
            whose.append(rows.identity[there])
    _, whose, often = torch.cat(whose).unique(return_inverse=True, return_counts=True)
    parts = F.pixel_unshuffle(torch.cat(faces), pixels // side).flatten(2).transpose(1, 2)
    means = torch.zeros(len(often), *parts.shape[1:]).index_add_(0, whose, parts) / often[:, None, None]
    return torch.cat(codes), means[whose]


def _watch(denoiser: Denoiser, data: Source) -> list[list[Tensor]]:
    """For every layer: means of q qᵀ [heads, d, d], q pᵀ [heads, d, 3] and p pᵀ [3, 3], p the place (x, y, 1) of q.

    In half crops from the middle of the upright face. Every other batch has its pose picture, where there is one.
    """
    from tqdm import trange

    bucket, low, high = data.buckets[0], *(round(share * (len(denoiser.signal) - 1)) for share in NOISY)
    sums = [[torch.zeros((), dtype=torch.float64)] * 3 for _ in denoiser.layer_map.layers]
    draw = generator("queries", 0)
    for number in trange(WATCHED, desc="asking queries where they stand", unit="batch", leave=False):
        chosen = [bucket[(8 * number + i) * len(bucket) // (8 * WATCHED)] for i in range(8)]
        rows, device = moved(data.load(chosen), denoiser.device), denoiser.device
        t = torch.randint(low, high, (len(rows.latents),), generator=draw).to(device)
        a, s = (scale.to(device)[t].view(-1, 1, 1, 1) for scale in (denoiser.signal, denoiser.noise))
        noise = torch.randn(rows.latents.shape, generator=draw).to(device)
        height, width = rows.latents.shape[-2:]

        def watch(index: int, q: Tensor, _: Tensor, rows=rows, size=(height, width)) -> None:
            heads = denoiser.layer_map.layers[index].heads
            q = q.detach().cpu().unflatten(-1, (heads, -1)).flatten(0, 1).double().transpose(0, 1)  # [heads, B·n, d]
            p = standing(rows.keypoints.cpu(), *size, q.shape[1] // len(rows.keypoints)).flatten(0, 1).double()
            now = (q.transpose(1, 2) @ q, q.transpose(1, 2) @ p, p.T @ p)
            sums[index] = [old + new / (len(p) * WATCHED) for old, new in zip(sums[index], now)]

        denoiser.predict(a * rows.latents + s * noise, t, rows.prompt, None, rows.control if number % 2 else None,
                         watch)
    return sums


def _begin_keys(adapter: TripletAdapter, moments: list[list[Tensor]], tokens: Tensor, where: Tensor) -> None:
    """Keys to which a query attends as to a Gaussian around the place where it seems to stand.

    The place is a linear function of the query, by least squares over pictures of much noise; how sure it is, is the
    variance of what is left.
    """
    gram = (tokens @ tokens.T).double()
    gram.diagonal().add_(1e-3 * gram.diagonal().mean())
    for linear, (queries, crossed, places) in zip(adapter.streams["face"].to_k, moments):
        keys = torch.cat([_keys(q, c, places, where.double()) for q, c in zip(queries, crossed)], 1)  # [T, width]
        weight = keys.T @ torch.linalg.solve(gram, tokens.double())
        linear.weight.data = weight.to(linear.weight).contiguous()


def _keys(queries: Tensor, crossed: Tensor, places: Tensor, where: Tensor) -> Tensor:
    """[T, d] of one head: −½ |p − where|² / variance, but for what all tokens share, as √d times a product with q."""
    queries = queries + 1e-3 * queries.diagonal().mean() * torch.eye(len(queries), dtype=queries.dtype)
    told = torch.linalg.solve(queries, crossed)  # [d, 3]
    missed = (places - told.T @ crossed - crossed.T @ told + told.T @ queries @ told).diagonal()[:2] + BLUR
    keys = (where / missed) @ told[:, :2].T - (where.square() / missed).sum(1, keepdim=True) / 2 * told[:, 2]
    return keys * len(queries) ** 0.5


def widened(keypoints: Tensor, pictures: Tensor) -> Tensor:
    """Key points [B, 5, 2] whose upright face of `pictures` [B, C, H, W] is REACH times as wide, with its middle."""
    size = keypoints.new_tensor([pictures.shape[3], pictures.shape[2]])
    middle = from_crop(keypoints * size) @ keypoints.new_tensor([SIZE / 2 - 0.5, SIZE / 2 - 0.5, 1]) / size
    return middle[:, None] + (keypoints - middle[:, None]) * REACH
