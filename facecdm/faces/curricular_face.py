"""CurricularFace's recogniser IR-101, whose feature maps UniPortrait reads in place of an embedding.

Huang et al., "CurricularFace: Adaptive Curriculum Learning Loss for Deep Face Recognition", 2020; keys and sizes of
glint360k_curricular_face_r101_backbone.bin are those of Tencent/TFace, recognition/torchkit/backbone/model_irse.py.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tensor_file import load_network
from .ir_se50 import SIDE
from .residual_units import ResidualUnit, stem, units

FILE = "glint360k_curricular_face_r101_backbone.bin"
WIDTH, STRUCTURE = 512, 64 + 128 + 256  # features of the last map; of the three maps before it together
GRID = 16  # side to which the three maps are scaled
_STAGES = ((64, 64, 3), (64, 128, 13), (128, 256, 30), (256, 512, 3))


class CurricularFace(nn.Module):
    """Aligned RGB faces [B, 3, 112, 112] in -1…1 → the four stages' maps, from [B, 64, 56, 56] to [B, 512, 7, 7].

    The layers that make the embedding are left out.
    """

    def __init__(self):
        super().__init__()
        self.input_layer = stem()
        self.body = units(_STAGES, _unit)

    def forward(self, faces: Tensor) -> list[Tensor]:
        maps, x, start = [], self.input_layer(faces), 0
        for _, _, count in _STAGES:
            x = self.body[start : start + count](x)
            maps.append(x)
            start += count
        return maps


def _unit(into: int, out: int, stride: int) -> ResidualUnit:
    return ResidualUnit(into, out, stride, between=[nn.BatchNorm2d(out)])


def face_states(network: CurricularFace, faces: Tensor) -> tuple[Tensor, Tensor]:
    """Aligned RGB faces [B, H, W, 3] in 0…1 → identity [B, 49, 512] and structure [B, 256, 448].

    As in junjiehe96/UniPortrait, uniportrait_pipeline.py.
    """
    pixels = F.interpolate((faces.movedim(-1, 1) * 2 - 1).clamp(-1, 1), (SIDE, SIDE), mode="bilinear")
    *maps, last = network(pixels)
    structure = torch.cat([F.interpolate(one, (GRID, GRID), mode="bilinear") for one in maps], 1)
    return last.flatten(2).mT, structure.flatten(2).mT


def load_curricular_face(path: Path) -> CurricularFace:
    """The network with the weights at `path` in float32. Raises BadFile."""
    problem = "does not hold the weights of CurricularFace's IR-101"
    return load_network(CurricularFace, path, problem, f"Get {FILE} again.")
