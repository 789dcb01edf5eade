"""How a new adapter begins: its bottleneck from the data's principal components, all else from the base model."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ..adapter.config import AdapterConfig
from ..adapter.model import TripletAdapter
from .denoiser import Denoiser
from .source import Source


def new_adapter(denoiser: Denoiser, data: Source, recogniser: str = "", seed: int = 0, **sizes) -> TripletAdapter:
    """An adapter for the denoiser's base and the data set's encoders; `sizes` are AdapterConfig's, and an `image_width`
    of 0 leaves the image stream out."""
    sample = data.features([0])
    image = 0 if sample[1] is None else sample[1].shape[-1]
    config = AdapterConfig(denoiser.layer_map, face_width=sample[0].shape[-1], recogniser=recogniser or data.recogniser,
                           **{"image_width": image} | sizes)
    torch.random.default_generator.manual_seed(seed)
    adapter = TripletAdapter(config).start_from_text(denoiser.text_keys_values())
    begin_bottleneck(adapter, unit_faces(data))
    return adapter.requires_grad_(False)


def unit_faces(data: Source, most: int = 20_000) -> Tensor:
    """Unit embeddings [N, W] of the data set's pictures, at most so many, evenly taken."""
    every = max(len(data) // most, 1)
    chosen = list(range(0, len(data), every))
    return F.normalize(data.features(chosen, vision=False)[0].float(), dim=1)


@torch.no_grad()
def begin_bottleneck(adapter: TripletAdapter, faces: Tensor) -> None:
    """Centre the face projector on `faces` [N, W] and let its code be their first principal components, whitened.

    Where there are fewer faces than the code has features, the other rows stay as they were.
    """
    projector = adapter.face_projector
    projector.mean.copy_(faces.mean(0))
    rank = min(len(projector.reduce.weight), len(faces) - 1)
    if rank < 1:
        return
    scaled = (faces - projector.mean) * faces.shape[1] ** 0.5
    _, values, directions = torch.linalg.svd(scaled, full_matrices=False)
    spread = (values[:rank] / len(faces) ** 0.5).clamp(min=1e-6)
    projector.reduce.weight[:rank] = directions[:rank] / spread[:, None]
    projector.reduce.bias.zero_()
    projector.restore.weight[:, :rank] = (directions[:rank] * spread[:, None]).T
    projector.restore.bias.zero_()
