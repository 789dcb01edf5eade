"""SigLIP's pooling, which core ComfyUI's SigLIP towers leave out.

Zhai et al., "Sigmoid Loss for Language Image Pre-Training", 2023; huggingface/transformers, modeling_siglip.py.
"""

import torch
from torch import Tensor, nn

from ..tensor_file import check_weights
from .encoders import Encoder
from .family import State
from .projectors import within

POSITIONS = "vision_model.embeddings.position_embedding.weight"
PREFIX = "vision_model.head."
HEADS = 16  # of SigLIP so400m


def is_tower(state: State, encoder: Encoder) -> bool:
    """Whether a file's tensors have the number of patches and the width of this SigLIP tower."""
    return POSITIONS in state and tuple(state[POSITIONS].shape) == (encoder.positions, encoder.states)


class PoolingHead(nn.Module):
    """A learnt query attends to a tower's normalised last states [R, N, W]; result [R, W]."""

    def __init__(self, width: int, hidden: int, heads: int):
        super().__init__()
        self.probe = nn.Parameter(torch.zeros(1, 1, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.layernorm = nn.LayerNorm(width, eps=1e-6)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, hidden), "fc2": nn.Linear(hidden, width)})

    @classmethod
    def of(cls, state: State, heads: int = HEADS) -> "PoolingHead":
        """The head of a whole tower's tensors, in float32.

        Raises KeyError, RuntimeError for a file without it, BadFile for NaN, infinity or integers.
        """
        own = within(state, PREFIX)
        hidden, width = own["mlp.fc1.weight"].shape
        for key, value in own.items():
            check_weights(PREFIX + key, value, "the vision tower")
        with torch.device("meta"):
            head = cls(width, hidden, heads)
        head.load_state_dict({key: value.float() for key, value in own.items()}, assign=True)
        return head.requires_grad_(False).eval()

    def forward(self, states: Tensor) -> Tensor:
        attended = self.attention(self.probe.expand(len(states), -1, -1), states, states, need_weights=False)[0]
        inner = nn.functional.gelu(self.mlp["fc1"](self.layernorm(attended)), approximate="tanh")
        return (attended + self.mlp["fc2"](inner))[:, 0]
