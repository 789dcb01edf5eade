"""facexlib's ArcFace recogniser, which InfiniteYou reads, in torch on the CPU.

Deng et al., "ArcFace", 2019, with the blocks of Hu et al., "Squeeze-and-Excitation Networks", 2018; keys and sizes of
recognition_arcface_ir_se50.pth are those of xinntao/facexlib, facexlib/recognition/arcface_arch.py.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tensor_file import load_network
from .residual_units import ResidualUnit, stem, units

SIDE = 112  # of the aligned face, in pixels
_STAGES = ((64, 64, 3), (64, 128, 4), (128, 256, 14), (256, 512, 3))


class IrSe50Recogniser:
    """The recogniser with the interface of InsightFace's. Raises BadFile."""

    taskname = "recognition"

    def __init__(self, path: Path):
        with torch.inference_mode(False):
            self.network = load_network(IrSe50, path, "is not facexlib's recogniser", "Get the file again.")

    def get(self, picture: np.ndarray, face) -> np.ndarray:
        """The unit embedding [512] of a face in a BGR picture [H, W, 3] uint8; `face` has `kps` [5, 2]."""
        from insightface.utils.face_align import norm_crop

        crop = torch.from_numpy(norm_crop(picture, face.kps, SIDE))
        with torch.inference_mode():
            return self.network(crop.movedim(-1, 0)[None] / 127.5 - 1)[0].numpy()


class IrSe50(nn.Module):
    """Aligned BGR faces [B, 3, 112, 112] in -1…1 → unit embeddings [B, 512]."""

    def __init__(self):
        super().__init__()
        self.input_layer = stem()
        self.body = units(_STAGES, _unit)
        self.output_layer = nn.Sequential(
            nn.BatchNorm2d(512), nn.Dropout(), nn.Flatten(), nn.Linear(512 * 7 * 7, 512), nn.BatchNorm1d(512)
        )

    def forward(self, faces: Tensor) -> Tensor:
        return F.normalize(self.output_layer(self.body(self.input_layer(faces))), dim=-1)


def _unit(into: int, out: int, stride: int) -> ResidualUnit:
    return ResidualUnit(into, out, stride, last=[_ChannelWeights(out)])


class _ChannelWeights(nn.Module):
    """Channels [B, C, h, w] weighted by a function of their means."""

    def __init__(self, channels: int):
        super().__init__()
        self.fc1 = nn.Conv2d(channels, channels // 16, 1, bias=False)
        self.fc2 = nn.Conv2d(channels // 16, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()
