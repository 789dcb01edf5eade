"""Initialisation of a new adapter's face tokens as positions in the face, which the U-Net's queries attend to.

With random tokens every position of the picture gets the same result until keys and values have been trained.
Regressions on the data set, without gradients, give a better start. Each token describes one part of the aligned face,
as far as the embedding determines that part. In every layer a query attends to the part at its own position, as far as
the query encodes its position.
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
from .held_out import count_people
from .losses.arcface import upright
from .losses.linear import FEWEST_PEOPLE, decoded, linear_decoder, solve_ridge
from .randomness import generator
from .rows import moved
from .source import Source

PIXELS = 96  # least number of pixels per side of the aligned face
MOST = 6000  # pictures whose faces are used
BATCH = 32  # pictures at a time
WATCHED = 12  # batches of 8 pictures whose queries are used
NOISY = (0.3, 1.0)  # range of the timesteps for the queries, as shares of all timesteps
RIDGE = 0.03
POSITION_SCALE = 1.2  # scale of a token's position features; its person features have scale 1
BLUR = 0.03  # added to the variance of a query's position, with positions in half crops


def can_init_positions(adapter: TripletAdapter, data: Source) -> bool:
    """Whether the tokens form a square and the data set has enough people for the regression."""
    side = adapter.config.grid_side
    return side > 1 and side * side == adapter.config.face_tokens and count_people(data) >= FEWEST_PEOPLE


@torch.no_grad()
def init_positions(adapter: TripletAdapter, denoiser: Denoiser, data: Source) -> TripletAdapter:
    """Initialise a new adapter's face tokens, and their keys in every layer, to represent positions on the face.

    Values and gates do not change, so the adapter remains a no-op. The same data give the same adapter. Tensors are
    replaced, not written to, since other adapters may share them.
    """
    side = adapter.config.grid_side
    positions = _init_tokens(adapter, *_faces(adapter, denoiser, data, side))
    if not adapter.config.layer_map.is_dit:  # the queries of a DiT's cells are random at first, and tell no position
        _init_keys(adapter, _query_moments(denoiser, data), positions, token_centres(side))
    adapter.config = replace(adapter.config, spatial_tokens=True)
    return adapter


def _init_tokens(adapter: TripletAdapter, codes: Tensor, face_map: Tensor, size: int) -> Tensor:
    """Make each token's first features describe its part of the person's face, and its other features its position.

    `codes` [N, r] are the faces' codes. `face_map` [r, 3, H, H] maps codes linearly to aligned faces. A token covers
    `size` × `size` pixels. Returns the tokens [T, context] with the features of a person set to 0.
    """
    projector, width, side = adapter.face_projector, adapter.config.width, adapter.config.grid_side
    count, own = side * side, face_map.shape[-1] // side
    padded = F.pad(face_map, ((size - own) // 2,) * 4, mode="replicate")
    parts = F.unfold(padded, size, stride=own).movedim(2, 0)  # [T, r, 3 · size²]
    kept = _principal_directions(parts.flatten(0, 1), min(projector.content, width // 2) or width // 2)
    content = torch.einsum("kp,trp->tkr", kept, parts)
    spread = torch.einsum("tkr,rs,tks->k", content, torch.cov(codes.T), content) / count
    # Go half-way to equal variance, so that fine features are large enough for training.
    content = content * (spread.clamp(min=1e-6 * float(spread.max())) ** -0.25)[:, None]
    content = content / torch.einsum("tkr,rs,tks->", content, torch.cov(codes.T), content).div(count * len(kept)).sqrt()
    positions = torch.zeros(count, width)
    positions[:, len(kept) :] = POSITION_SCALE * _position_features(side, width - len(kept))
    mean = F.linear(codes.mean(0), content.flatten(0, 1)).view(count, -1)
    offset = positions - F.pad(mean, (0, width - len(kept)))
    if projector.content:
        projector.uplift.weight.data = F.pad(content, (0, 0, 0, projector.content - len(kept))).flatten(0, 1)
        projector.spread.weight.data = torch.eye(width, projector.content)
        projector.place.data = offset
    else:
        projector.uplift.weight.data = F.pad(content, (0, 0, 0, width - len(kept))).flatten(0, 1)
        projector.uplift.bias.data = offset.flatten()
    tokens = projector.norm(positions)
    tokens[:, : len(kept)] = 0
    return tokens


def _principal_directions(rows: Tensor, count: int) -> Tensor:
    """Return the first `count` right singular vectors of `rows` [N, P] as [count, P]; zeros beyond min(N, P)."""
    if len(rows) < rows.shape[1]:  # a few large tokens: P × P would take a minute
        directions = torch.linalg.svd(rows, full_matrices=False).Vh
    else:
        directions = torch.linalg.eigh(rows.T @ rows)[1].T.flip(0)
    return F.pad(directions[:count], (0, 0, 0, max(count - len(directions), 0)))


def _position_features(side: int, features: int) -> Tensor:
    """Features [side², features] of about unit variance: x, y and x² + y² of each position, then random Fourier
    features (Rahimi & Recht 2007). Neighbouring positions have similar features."""
    seeded, at = generator("places", 0), token_centres(side)
    waves = torch.randn(2, features - 3, generator=seeded) * side / (2 * REACH) / 2
    phases = torch.rand(features - 3, generator=seeded) * 2 * torch.pi
    return torch.cat([at, at.square().sum(1, keepdim=True), (at @ waves + phases).cos() * 2**0.5], 1)


def _faces(adapter: TripletAdapter, denoiser: Denoiser, data: Source, side: int) -> tuple[Tensor, Tensor, int]:
    """Return (codes, face_map, size).

    codes     [N, r] of the faces
    face_map  [r, 3, H, H], the linear map from a code to the person's mean aligned face
    size      side in pixels of the square that a token covers: its part of the face, but at least one latent
    """
    from tqdm import tqdm

    decoder, own = linear_decoder(denoiser, data), -(-PIXELS // side)
    pixels = own * side
    people = list(data.people)[:: max(-(-len(data) // MOST), 1)]
    codes, persons, latent, total = [], [], [], torch.zeros(len(people), 3 * pixels**2)
    numbers = {person: number for number, person in enumerate(people)}
    for bucket in data.buckets:
        wanted = [picture for picture in bucket if data.identity(picture) in numbers]
        for start in tqdm(range(0, len(wanted), BATCH), desc="face regression", unit="batch", leave=False):
            rows = data.load(wanted[start : start + BATCH])
            found = rows.box[:, 2] > rows.box[:, 0]
            shown = decoded(rows.latents[found].to(denoiser.device).float(), decoder)
            faces = F.interpolate(
                upright(shown, widened(rows.keypoints[found], shown)), (pixels, pixels), mode="bilinear", antialias=True
            )
            person = torch.tensor([numbers[int(one)] for one in rows.identity[found]], dtype=torch.long)
            total.index_add_(0, person, faces.flatten(1).cpu())
            codes.append(
                adapter.face_projector.activate(
                    adapter.face_projector.code(F.normalize(rows.face[found].float(), dim=1))
                )
            )
            persons.append(person)
            size = rows.keypoints.new_tensor(rows.latents.shape[:-3:-1])
            latent.append(1 / from_crop(rows.keypoints[found] * size)[:, :, 0].norm(dim=1))
    codes, persons = torch.cat(codes), torch.cat(persons)
    counts = persons.bincount(minlength=len(people))
    known = counts > 0
    means = total[known] / counts[known, None]
    means -= (means * counts[known, None]).sum(0) / len(persons)
    summed = torch.zeros(len(people), codes.shape[1]).index_add_(0, persons, codes - codes.mean(0))[known]
    face_map = solve_ridge((codes - codes.mean(0)).T @ (codes - codes.mean(0)), summed.T @ means, RIDGE)
    wide = float(torch.cat(latent).mean()) * pixels / (SIZE * REACH)
    return codes, face_map.view(-1, 3, pixels, pixels), own + 2 * max(round((wide - own) / 2), 0)


def _query_moments(denoiser: Denoiser, data: Source) -> list[list[Tensor]]:
    """For every layer, means of q qᵀ [heads, d, d], q pᵀ [heads, d, 3] and p pᵀ [3, 3].

    p = (x, y, 1) is the position of query q, in half crops from the centre of the aligned face. Every other batch uses
    its pose pictures, if it has any.
    """
    from tqdm import trange

    bucket, low, high = data.buckets[0], *(round(share * (len(denoiser.signal) - 1)) for share in NOISY)
    sums = [[torch.zeros((), dtype=torch.float64)] * 3 for _ in denoiser.layer_map.layers]
    seeded = generator("queries", 0)
    for number in trange(WATCHED, desc="query positions", unit="batch", leave=False):
        chosen = [bucket[(8 * number + i) * len(bucket) // (8 * WATCHED)] for i in range(8)]
        rows, device = moved(data.load(chosen), denoiser.device), denoiser.device
        t = torch.randint(low, high, (len(rows.latents),), generator=seeded).to(device)
        a, s = (scale.to(device)[t].view(-1, 1, 1, 1) for scale in (denoiser.signal, denoiser.noise))
        noise = torch.randn(rows.latents.shape, generator=seeded).to(device)
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


def _init_keys(adapter: TripletAdapter, moments: list[list[Tensor]], tokens: Tensor, centres: Tensor) -> None:
    """Set keys with which a query's attention is a Gaussian around the query's estimated position.

    The estimate is linear in the query, fitted by least squares on noisy pictures. The Gaussian's variance is that of
    the estimate's error.
    """
    gram = (tokens @ tokens.T).double()
    gram.diagonal().add_(1e-3 * gram.diagonal().mean())
    for linear, (queries, crossed, positions) in zip(adapter.streams["face"].to_k, moments):
        keys = torch.cat([_keys(q, c, positions, centres.double()) for q, c in zip(queries, crossed)], 1)  # [T, width]
        weight = keys.T @ torch.linalg.solve(gram, tokens.double())
        linear.weight.data = weight.to(linear.weight).contiguous()


def _keys(queries: Tensor, crossed: Tensor, positions: Tensor, centres: Tensor) -> Tensor:
    """Keys [T, d] of one head: q · key / √d = −½ |p − centre|² / variance, up to a term that all tokens share."""
    queries = queries + 1e-3 * queries.diagonal().mean() * torch.eye(len(queries), dtype=queries.dtype)
    estimate = torch.linalg.solve(queries, crossed)  # [d, 3]
    error = positions - estimate.T @ crossed - crossed.T @ estimate + estimate.T @ queries @ estimate
    variance = error.diagonal()[:2] + BLUR
    keys = (centres / variance) @ estimate[:, :2].T
    keys -= (centres.square() / variance).sum(1, keepdim=True) / 2 * estimate[:, 2]
    return keys * len(queries) ** 0.5


def widened(keypoints: Tensor, pictures: Tensor) -> Tensor:
    """Key points [B, 5, 2] spread from the face's centre, so that the crop of `pictures` [B, C, H, W] is REACH times as
    wide."""
    size = keypoints.new_tensor([pictures.shape[3], pictures.shape[2]])
    middle = from_crop(keypoints * size) @ keypoints.new_tensor([SIZE / 2 - 0.5, SIZE / 2 - 0.5, 1]) / size
    return middle[:, None] + (keypoints - middle[:, None]) * REACH
