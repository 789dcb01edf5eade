"""Preview pictures of held-out people during training."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapter.attention import LayerStream
from ..adapter.location_finder import LocationFinder, Prediction
from ..adapter.reference_batch import ReferenceBatch
from .denoiser import Denoiser
from .learner import Learner
from .randomness import generator
from .rows import Prompt, Rows, moved
from .sample import even_timesteps, sample
from .source import Source
from .step import face_locations

STEPS, GUIDANCE = 12, 4.0


@torch.no_grad()
def preview(
    denoiser: Denoiser,
    learner: Learner,
    data: Source,
    people: list[int],
    prompts: list[int],
    seed: int = 0,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
) -> Tensor:
    """Pictures [N, 3, H, W] in 0…1 of the face in picture `people[i]` with the caption of picture `prompts[i]`.

    The noise is always the same. The learner's averaged weights are used; its LoRA must be on. All `prompts` are in one
    bucket. Pose and face location come from the prompts' pictures, unless the stage drops every pose; then an adapter
    with a location head finds the location by itself.
    """
    rows = moved(data.load(prompts), denoiser.device)
    noisy = torch.randn(rows.latents.shape, generator=generator("preview", seed)).to(denoiser.device)
    empty, levels = moved(data.empty_prompt, denoiser.device), even_timesteps(denoiser, steps)
    pictures: dict[int, Tensor] = {}
    with learner.averaged():
        for group in _of_one_length(rows.prompt):  # some models have no mask for prompts of several lengths
            features, some = data.features([people[number] for number in group]), rows.part(torch.tensor(group))
            made = _sample(denoiser, learner, some, noisy[group], features, empty, levels, guidance)
            pictures |= zip(group, made)
    return torch.stack([pictures[number] for number in range(len(people))])


def _of_one_length(prompt: Prompt) -> list[list[int]]:
    """The rows, those with prompts of one length together."""
    groups: dict[int, list[int]] = {}
    for row in range(len(prompt.states)):
        groups.setdefault(0 if prompt.lengths is None else int(prompt.lengths[row]), []).append(row)
    return list(groups.values())


def _sample(
    denoiser: Denoiser,
    learner: Learner,
    rows: Rows,
    noisy: Tensor,
    features: tuple[Tensor, Tensor | None],
    empty: Prompt,
    levels: list[int],
    guidance: float,
) -> Tensor:
    """Pictures [B, 3, H, W] from the noise, of the people with these `features`, with the rows' prompts and poses."""
    device, adapter, (face, vision) = denoiser.device, learner.adapter, features
    on = torch.ones(len(noisy), dtype=torch.bool, device=device)
    reference_batch = ReferenceBatch(
        F.normalize(face.to(device), dim=1), None if vision is None else vision.to(device), on, ~on
    )
    posed = learner.stage.drop_pose < 1
    finder = None
    if posed and adapter.config.spatial_tokens:
        reference_batch = replace(reference_batch, location=face_locations(rows, adapter.config))
    elif adapter.location_head is not None:
        finder = LocationFinder(adapter)
    reference_batch = reference_batch.with_tokens(adapter, rows.prompt.states, rows.prompt.mask)

    def streams(sigma: Tensor, before: Prediction | None) -> list[list[LayerStream]]:
        batch = reference_batch
        if finder is not None:
            batch = replace(batch, location=finder(before, tuple(noisy.shape[-2:]), device))
        return batch.streams(
            adapter, rows.prompt.states, sigma, denoiser.dtype, learner.extra, text_mask=rows.prompt.mask
        )

    return sample(denoiser, noisy, rows.prompt, empty, streams, levels, guidance, rows.control if posed else None)


def choose(data: Source, held_out: list[int], count: int = 4) -> tuple[list[int], list[int]]:
    """(people, prompts): up to `count` held-out people, each with the caption of the next one's picture."""
    first: dict[int, int] = {}
    for index in held_out:
        first.setdefault(data.identity(index), index)
    people = list(first.values())[:count]
    shape = data.latent_shape(people[0]) if people else None
    people = [index for index in people if data.latent_shape(index) == shape]
    return people, people[1:] + people[:1]


def side_by_side(pictures: Tensor):
    """Pictures [N, 3, H, W] in 0…1 as one PIL picture."""
    from PIL import Image

    row = torch.cat(list(pictures), dim=2).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(row)
