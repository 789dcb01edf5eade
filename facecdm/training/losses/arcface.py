"""ArcFace with gradients: from a picture and five key points to an embedding."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...faces.location import SIZE, from_crop
from .convert import OnnxNetwork

MOST_SAMPLES = 8  # samples per side of a crop's pixel


class ArcFace(nn.Module):
    """The user's recogniser (`w600k_mbf.onnx`, `w600k_r50.onnx`, `glintr100.onnx`), frozen, fp32."""

    def __init__(self, path: Path):
        super().__init__()
        self.network = OnnxNetwork(path)
        # MXNet's exports contain the normalisation (same rule as insightface, model_zoo/arcface_onnx.py).
        first = self.network.operations[:8]
        self.wants_bytes = "Sub" in first and "Mul" in first

    def forward(self, crops: Tensor) -> Tensor:
        """Aligned RGB crops [B, 3, 112, 112] in −1…1 → raw embeddings [B, D], float32."""
        return self.network((crops + 1) * 127.5 if self.wants_bytes else crops)

    def embed(self, pixels: Tensor, keypoints: Tensor) -> Tensor:
        """Pictures [B, 3, H, W] in −1…1 and their key points [B, 5, 2] in 0…1 → raw embeddings [B, D]."""
        return self(align(pixels, keypoints))


def align(pixels: Tensor, keypoints: Tensor) -> Tensor:
    """The aligned faces [B, 3, 112, 112] of pictures [B, 3, H, W] in −1…1 (clamped); black outside the picture.

    Like InsightFace's norm_crop, but a face larger than twice the crop is averaged over several samples per pixel, so
    that every pixel of the face has a gradient.

    keypoints   [B, 5, 2] in 0…1 of the picture
    """
    return upright(pixels.float().clamp(-1, 1) + 1, keypoints) - 1  # the shift makes black 0, like the padding


def upright(pixels: Tensor, keypoints: Tensor) -> Tensor:
    """Align any values [B, C, H, W] as `align` does; 0 outside the picture. Linear in the values."""
    height, width = pixels.shape[-2:]
    with torch.autocast(pixels.device.type, enabled=False):
        size = torch.tensor([width, height], device=pixels.device, dtype=torch.float32)
        matrix = from_crop(keypoints.to(pixels.device).float() * size)
        scale = matrix[:, :, 0].norm(dim=-1)
        samples = [int(min(max(s, 1), MOST_SAMPLES)) for s in scale.tolist()]
        crops = pixels.new_empty(len(pixels), pixels.shape[1], SIZE, SIZE)
        for count in set(samples):
            rows = torch.tensor([i for i, n in enumerate(samples) if n == count], device=pixels.device)
            crops = crops.index_copy(0, rows, _warp(pixels[rows], matrix[rows], size, count))
        return crops


def _warp(pixels: Tensor, matrix: Tensor, size: Tensor, samples: int) -> Tensor:
    """Crop with the mean of `samples`² bilinear samples per pixel; pixel centres are integers, as in OpenCV."""
    steps = (torch.arange(SIZE * samples, device=pixels.device) + 0.5) / samples - 0.5
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    positions = torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1) @ matrix.transpose(1, 2)
    grid = ((2 * positions + 1) / size - 1).view(-1, SIZE * samples, SIZE * samples, 2)
    return F.avg_pool2d(F.grid_sample(pixels, grid, align_corners=False), samples)
