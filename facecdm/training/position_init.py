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

from ..adapter.location import token_centres
from ..adapter.model import TripletAdapter
from ..bases.grid import layer_grid
from ..faces.location import REACH, SIZE, aligned_coordinates, from_crop
from .denoiser import Denoiser
from .losses.arcface import upright
from .losses.linear import FEWEST_PEOPLE, decoded, linear_decoder, straight
from .randomness import generator
from .rows import moved
from .source import Source

PIXELS = 96  # of the upright face, per side, or a few more
MOST = 6000  # pictures whose faces are looked at
BATCH = 32  # of them at a time
WATCHED = 12  # batches of 8 pictures whose queries are watched
NOISY = (0.3, 1.0)  # of all steps: where the watched pictures' noise lies
RIDGE = 0.03
LOUDNESS = 1.2  # of what tells a token's place, against what it says of the person, 1
BLUR = 0.03  # added to the variance with which a query knows its place, in half crops


def can_init_positions(adapter: TripletAdapter, data: Source) -> bool:
    """Whether the tokens make a square, and there are people enough to say in what they differ."""
    side = adapter.config.grid_side
    return side > 1 and side * side == adapter.config.face_tokens and len(data.people) >= FEWEST_PEOPLE


@torch.no_grad()
def init_positions(adapter: TripletAdapter, denoiser: Denoiser, data: Source) -> TripletAdapter:
    """Give a new adapter's face tokens and its face keys in every layer their places; values and gates stay.

    So an adapter that did nothing still does nothing. The same data give the same adapter. Tensors are replaced, not
    written to: others may hold them.
    """
    side = adapter.config.grid_side
    where = _begin_tokens(adapter, *_faces(adapter, denoiser, data, side))
    _begin_keys(adapter, _watch(denoiser, data), where, token_centres(side))
    adapter.config = replace(adapter.config, places=True)
    return adapter


def _begin_tokens(adapter: TripletAdapter, codes: Tensor, drawn: Tensor, seen: int) -> Tensor:
    """Each token: in its first features what the person's face is like there, in the others which place it is.

    `codes` [N, r] of faces; `drawn` [r, 3, H, H], the upright face by a straight line from them; a token sees `seen`
    pixels each way. Gives the tokens of a face like all others [T, context], without what they say of a person.
    """
    projector, width, side = adapter.face_projector, adapter.config.layer_map.context, adapter.config.grid_side
    count, own = side * side, drawn.shape[-1] // side
    around = F.pad(drawn, ((seen - own) // 2,) * 4, mode="replicate")
    parts = F.unfold(around, seen, stride=own).movedim(2, 0)  # [T, r, 3 · seen²]
    _, turned = torch.linalg.eigh(parts.flatten(0, 1).T @ parts.flatten(0, 1))
    kept = turned.T.flip(0)[: min(projector.content, width // 2) or width // 2]
    said = torch.einsum("kp,trp->tkr", kept, parts)
    spread = torch.einsum("tkr,rs,tks->k", said, torch.cov(codes.T), said) / count
    # Half-way towards equal variance, so that fine features are not too faint to be learnt from.
    said = said * (spread.clamp(min=1e-6 * float(spread.max())) ** -0.25)[:, None]
    said = said / torch.einsum("tkr,rs,tks->", said, torch.cov(codes.T), said).div(count * len(kept)).sqrt()
    where = torch.zeros(count, width)
    where[:, len(kept) :] = LOUDNESS * _addresses(side, width - len(kept))
    told = F.linear(codes.mean(0), said.flatten(0, 1)).view(count, -1)
    if projector.content:
        projector.uplift.weight.data = F.pad(said, (0, 0, 0, projector.content - len(kept))).flatten(0, 1)
        projector.spread.weight.data = torch.eye(width, projector.content)
        projector.place.data = where - F.pad(told, (0, width - len(kept)))
    else:
        projector.uplift.weight.data = F.pad(said, (0, 0, 0, width - len(kept))).flatten(0, 1)
        projector.uplift.bias.data = (where - F.pad(told, (0, width - len(kept)))).flatten()
    tokens = projector.norm(where)
    tokens[:, : len(kept)] = 0
    return tokens


def _addresses(side: int, features: int) -> Tensor:
    """[side², features] of about unit variance: x, y and x² + y² of each place, then waves that tell it from others.

    So what is learnt of a place is near to what its neighbours learn (Rahimi & Recht 2007, random Fourier features).
    """
    draw, at = generator("places", 0), token_centres(side)
    waves = torch.randn(2, features - 3, generator=draw) * side / (2 * REACH) / 2
    phases = torch.rand(features - 3, generator=draw) * 2 * torch.pi
    return torch.cat([at, at.square().sum(1, keepdim=True), (at @ waves + phases).cos() * 2**0.5], 1)


def _faces(adapter: TripletAdapter, denoiser: Denoiser, data: Source, side: int) -> tuple[Tensor, Tensor, int]:
    """Codes of faces as they are uplifted [N, r], the person's mean upright face by a straight line from them
    [r, 3, H, H], and how many of its pixels a token sees: its own and at least those of a latent."""
    from tqdm import tqdm

    decoder, own = linear_decoder(denoiser, data), -(-PIXELS // side)
    pixels = own * side
    people = list(data.people)[:: max(-(-len(data) // MOST), 1)]
    codes, whose, latent, total = [], [], [], torch.zeros(len(people), 3 * pixels**2)
    numbers = {person: number for number, person in enumerate(people)}
    for bucket in data.buckets:
        wanted = [picture for picture in bucket if data.identity(picture) in numbers]
        for start in tqdm(range(0, len(wanted), BATCH), desc="looking at faces", unit="batch", leave=False):
            rows = data.load(wanted[start : start + BATCH])
            there = rows.box[:, 2] > rows.box[:, 0]
            shown = decoded(rows.latents[there].to(denoiser.device).float(), decoder)
            faces = F.interpolate(
                upright(shown, widened(rows.keypoints[there], shown)), (pixels, pixels), mode="bilinear", antialias=True
            )
            person = torch.tensor([numbers[int(one)] for one in rows.identity[there]], dtype=torch.long)
            total.index_add_(0, person, faces.flatten(1).cpu())
            codes.append(
                adapter.face_projector.heard(adapter.face_projector.code(F.normalize(rows.face[there].float(), dim=1)))
            )
            whose.append(person)
            size = rows.keypoints.new_tensor(rows.latents.shape[:-3:-1])
            latent.append(1 / from_crop(rows.keypoints[there] * size)[:, :, 0].norm(dim=1))
    codes, whose = torch.cat(codes), torch.cat(whose)
    often = whose.bincount(minlength=len(people))
    known = often > 0
    means = total[known] / often[known, None]
    means -= (means * often[known, None]).sum(0) / len(whose)
    summed = torch.zeros(len(people), codes.shape[1]).index_add_(0, whose, codes - codes.mean(0))[known]
    drawn = straight((codes - codes.mean(0)).T @ (codes - codes.mean(0)), summed.T @ means, RIDGE)
    wide = float(torch.cat(latent).mean()) * pixels / (SIZE * REACH)
    return codes, drawn.view(-1, 3, pixels, pixels), own + 2 * max(round((wide - own) / 2), 0)


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
            p = (
                aligned_coordinates(rows.keypoints.cpu(), size, layer_grid(q.shape[1] // len(rows.keypoints), *size))
                .flatten(0, 1)
                .double()
            )
            now = (q.transpose(1, 2) @ q, q.transpose(1, 2) @ p, p.T @ p)
            sums[index] = [old + new / (len(p) * WATCHED) for old, new in zip(sums[index], now)]

        denoiser.predict(
            a * rows.latents + s * noise, t, rows.prompt, None, rows.control if number % 2 else None, watch
        )
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
