"""EVA02-CLIP-L-14-336's vision tower, which PuLID uses, with the keys of its published file.

Sun et al., "EVA-CLIP: Improved Training Techniques for CLIP at Scale", 2023; Fang et al., "EVA-02: A Visual
Representation for Neon Genesis", 2023. File: EVA02_CLIP_L_336_psz14_s6B.pt.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import BadFile
from ..tensor_file import check_weights, count_numbered

FILE = "EVA02_CLIP_L_336_psz14_s6B.pt"
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
_TIMM = (
    (".mlp.fc1_g.", ".mlp.w1."),
    (".mlp.fc1_x.", ".mlp.w2."),
    (".mlp.fc2.", ".mlp.w3."),
    (".mlp.norm.", ".mlp.ffn_ln."),
    (".attn.norm.", ".attn.inner_attn_ln."),
    (".attn.q_proj.bias", ".attn.q_bias"),
    (".attn.v_proj.bias", ".attn.v_bias"),
)


@dataclass(frozen=True)
class EvaSizes:
    """Sizes of a tower.

    image   side of its pictures, in pixels
    patch   side of a patch, in pixels
    width   features of its states
    heads   heads of its attention
    hidden  features of its feed-forward
    depth   number of blocks
    out     features of its embedding
    rope    patches per side in the pretraining of the rotary positions; a larger picture's positions are scaled to it
    states  number of blocks before each hidden state that PuLID reads
    """

    image: int = 336
    patch: int = 14
    width: int = 1024
    heads: int = 16
    hidden: int = 2730
    depth: int = 24
    out: int = 768
    rope: int = 16
    states: tuple[int, ...] = (4, 8, 12, 16, 20)

    @classmethod
    def of(cls, state: dict[str, Tensor]) -> "EvaSizes":
        """Read the sizes from a tower's tensors. Raises KeyError, ValueError if they are incomplete."""
        width, _, patch, _ = state["patch_embed.proj.weight"].shape
        side = round((state["pos_embed"].shape[1] - 1) ** 0.5)
        depth = count_numbered(state, "blocks.")
        return cls(
            side * patch,
            patch,
            width,
            max(width // 64, 1),
            len(state["blocks.0.mlp.w1.weight"]),
            depth,
            len(state["head.weight"]),
        )


class EvaTower(nn.Module):
    """Pictures [B, 3, 336, 336], normalised by MEAN and STD → (embedding [B, 768], five states [B, 577, 1024])."""

    def __init__(self, sizes: EvaSizes = EvaSizes()):
        super().__init__()
        self.sizes = sizes
        patches = (sizes.image // sizes.patch) ** 2
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, sizes.width, sizes.patch, sizes.patch)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, sizes.width))
        self.pos_embed = nn.Parameter(torch.zeros(1, patches + 1, sizes.width))
        self.blocks = nn.ModuleList(_Block(sizes) for _ in range(sizes.depth))
        self.norm = nn.LayerNorm(sizes.width, eps=1e-6)
        self.head = nn.Linear(sizes.width, sizes.out)

    def forward(self, pictures: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = self.patch_embed.proj(pictures).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls_token.expand(len(x), -1, -1), x], 1) + self.pos_embed
        rotation = _rotation(self.sizes, x)
        states = []
        for number, block in enumerate(self.blocks):
            if number in self.sizes.states:
                states.append(x)
            x = block(x, rotation)
        return self.head(self.norm(x[:, 0])), tuple(states)


class _Block(nn.Module):
    def __init__(self, sizes: EvaSizes):
        super().__init__()
        self.norm1 = nn.LayerNorm(sizes.width, eps=1e-6)
        self.attn = _Attention(sizes.width, sizes.heads)
        self.norm2 = nn.LayerNorm(sizes.width, eps=1e-6)
        self.mlp = _SwiGLU(sizes.width, sizes.hidden)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.norm1(x), rotation)
        return x + self.mlp(self.norm2(x))


class _Attention(nn.Module):
    """Self-attention with rotary positions of the patches; the class token has none. Keys have no bias."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, width, bias=False) for _ in range(3))
        self.q_bias, self.v_bias = (nn.Parameter(torch.zeros(width)) for _ in range(2))
        self.inner_attn_ln = nn.LayerNorm(width, eps=1e-6)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in (self.q_proj(x) + self.q_bias, self.k_proj(x), self.v_proj(x) + self.v_bias)
        )
        attended = F.scaled_dot_product_attention(_rotate(q, rotation), _rotate(k, rotation), v)
        return self.proj(self.inner_attn_ln(attended.transpose(1, 2).flatten(2)))


class _SwiGLU(nn.Module):
    def __init__(self, width: int, hidden: int):
        super().__init__()
        self.w1, self.w2 = (nn.Linear(width, hidden) for _ in range(2))
        self.ffn_ln = nn.LayerNorm(hidden, eps=1e-6)
        self.w3 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


def _rotation(sizes: EvaSizes, like: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin of each patch's angles, [patches, head width]: half of the features by row, half by column."""
    side, axis = sizes.image // sizes.patch, sizes.width // sizes.heads // 2
    speeds = 10000 ** (-torch.arange(0, axis, 2, device=like.device, dtype=torch.float32) / axis)
    positions = torch.arange(side, device=like.device, dtype=torch.float32) / side * sizes.rope
    angles = (positions[:, None] * speeds).repeat_interleave(2, -1)
    angles = torch.cat([angles[:, None].expand(-1, side, -1), angles[None].expand(side, -1, -1)], -1).flatten(0, 1)
    return angles.cos().to(like), angles.sin().to(like)


def _rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate pairs of neighbouring features of the patches; the class token is unchanged."""
    first, rest = x[:, :, :1], x[:, :, 1:]
    crossed = torch.stack([-rest[..., 1::2], rest[..., ::2]], -1).flatten(-2)
    return torch.cat([first, rest * rotation[0] + crossed * rotation[1]], 2)


def tower_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tower's tensors from a whole EVA-CLIP, its visual part, or timm's `eva02_large_patch14_clip_336`."""
    prefix = next((p for p in ("visual.trunk.", "visual.") if f"{p}pos_embed" in state), "")
    found = {}
    for key, value in state.items():
        if not key.startswith(prefix) or "rope" in key:
            continue
        key = "." + key.removeprefix(prefix)
        for old, new in _TIMM:
            key = key.replace(old, new)
        if not key.endswith(".k_proj.bias"):
            found[key[1:]] = value
    return found


def is_eva(state: dict[str, Tensor]) -> bool:
    """Whether a file's keys are those of an EVA02-CLIP tower."""
    own = tower_state(state)
    return "blocks.0.attn.inner_attn_ln.weight" in own and "blocks.0.mlp.w1.weight" in own


def load_eva(state: dict[str, Tensor], path: Path) -> EvaTower:
    """The tower, each tensor in its saved dtype. Raises BadFile, naming `path`."""
    if not is_eva(state):
        raise BadFile(
            f"{path} is not an EVA02-CLIP vision tower. PuLID needs {FILE}: put that file into models/clip_vision or "
            "models/pulid."
        )
    own = tower_state(state)
    try:
        with torch.device("meta"):
            tower = EvaTower(EvaSizes.of(own))
        weights = {key: own[key] for key in tower.state_dict()}
        for key, value in weights.items():
            check_weights(key, value, path)
        tower.load_state_dict(weights, assign=True)
    except (RuntimeError, KeyError, ValueError, IndexError, TypeError, ArithmeticError) as error:
        raise BadFile(f"{path} is incomplete ({str(error)[:200]}): get it again.") from error
    if tower.sizes.depth <= tower.sizes.states[-1]:
        raise BadFile(
            f"{path} is an EVA-CLIP of {tower.sizes.depth} blocks. PuLID needs {FILE}, of 24 blocks and 1024 features."
        )
    return tower.requires_grad_(False).eval()
