"""The face parser that separates the background for PuLID: BiSeNet with the keys of facexlib's file.

Yu et al., "BiSeNet: Bilateral Segmentation Network for Real-time Semantic Segmentation", 2018, on a ResNet-18, as
zllrunning/face-parsing.PyTorch trained it on CelebAMask-HQ. File: parsing_bisenet.pth.
"""

from collections import OrderedDict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..tensor_file import load_network

FILE = "parsing_bisenet.pth"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class BiSeNet(nn.Module):
    """Faces [B, 3, H, W], normalised by MEAN and STD, sides divisible by 32 → class scores [B, 19, H, W]."""

    def __init__(self, classes: int = 19):
        super().__init__()
        self.cp = _Context()
        self.ffm = _Fusion()
        self.conv_out = nn.Module()
        self.conv_out.conv = _conv(256, 256, 3)
        self.conv_out.conv_out = nn.Conv2d(256, classes, 1, bias=False)

    def forward(self, faces: Tensor) -> Tensor:
        scores = self.conv_out.conv_out(self.conv_out.conv(self.ffm(*self.cp(faces))))
        return F.interpolate(scores, faces.shape[-2:], mode="bilinear", align_corners=True)


class _Context(nn.Module):
    """Local features and context features at an eighth of the size, [B, 128, h, w] each."""

    def __init__(self):
        super().__init__()
        from torchvision.models import resnet18

        self.resnet = resnet18()
        self.resnet.fc = nn.Identity()
        self.arm16, self.arm32 = _Refinement(256), _Refinement(512)
        self.conv_head16, self.conv_head32 = _conv(128, 128, 3), _conv(128, 128, 3)
        self.conv_avg = _conv(512, 128, 1)

    def forward(self, faces: Tensor) -> tuple[Tensor, Tensor]:
        net = self.resnet
        eighth = net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(faces))))))
        sixteenth = net.layer3(eighth)
        last = net.layer4(sixteenth)
        context = self.arm32(last) + self.conv_avg(last.mean((2, 3), keepdim=True))
        context = self.conv_head32(F.interpolate(context, sixteenth.shape[-2:]))
        context = self.arm16(sixteenth) + context
        return eighth, self.conv_head16(F.interpolate(context, eighth.shape[-2:]))


class _Refinement(nn.Module):
    """Features weighted by a gate on their mean over the picture."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = _conv(width, 128, 3)
        self.conv_atten = nn.Conv2d(128, 128, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(128)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x * self.bn_atten(self.conv_atten(x.mean((2, 3), keepdim=True))).sigmoid()


class _Fusion(nn.Module):
    def __init__(self):
        super().__init__()
        self.convblk = _conv(256, 256, 1)
        self.conv1 = nn.Conv2d(256, 64, 1, bias=False)
        self.conv2 = nn.Conv2d(64, 256, 1, bias=False)

    def forward(self, near: Tensor, context: Tensor) -> Tensor:
        x = self.convblk(torch.cat([near, context], 1))
        return x * (1 + self.conv2(F.relu(self.conv1(x.mean((2, 3), keepdim=True)))).sigmoid())


def _conv(width: int, out: int, kernel: int) -> nn.Sequential:
    return nn.Sequential(
        OrderedDict(
            conv=nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False), bn=nn.BatchNorm2d(out), relu=nn.ReLU()
        )
    )


def load_parser(path: Path) -> BiSeNet:
    """The parser with the weights at `path`. Raises BadFile."""
    return load_network(
        BiSeNet,
        path,
        "does not hold the weights of facexlib's BiSeNet",
        f"Get {FILE} again, or remove it: then an oval around the face is used.",
    )
