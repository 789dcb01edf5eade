"""From features to tokens: a bottleneck for the face, a resampler for the whole image."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .attention import attend


class Bottleneck(nn.Module):
    """Reduce, then uplift: unit embedding [B, width] → tokens [B, count, context].

    The centred embedding is reduced to a code of `rank` features. In training the embedding is reconstructed from the
    code, so that the code keeps the relevant information. With `content`, each token is the sum of a learnt vector
    (`place`) and `content` features, which are linear in the code and pass through weights shared by all tokens
    (`spread`).
    """

    def __init__(self, width: int, rank: int, count: int, context: int, content: int = 0):
        super().__init__()
        self.count, self.content = count, content
        self.register_buffer("mean", torch.zeros(width))
        self.reduce = nn.Linear(width, rank)
        self.uplift = nn.Linear(rank, count * (content or context), bias=not content)
        if content:
            self.spread = nn.Linear(content, context, bias=False)
            self.place = nn.Parameter(torch.randn(count, context))
        self.restore = nn.Linear(rank, width)
        self.norm = nn.LayerNorm(context)

    def code(self, embedding: Tensor) -> Tensor:
        """Unit embedding [B, width] → code [B, rank]; features are scaled to about unit variance first."""
        return self.reduce((embedding - self.mean) * embedding.shape[-1] ** 0.5)

    def forward(self, embedding: Tensor) -> Tensor:
        tokens = self.uplift(self.activate(self.code(embedding))).unflatten(-1, (self.count, -1))
        return self.norm(self.place + self.spread(tokens) if self.content else tokens)

    def activate(self, code: Tensor) -> Tensor:
        """The input of `uplift` for a code [..., rank]."""
        return code if self.content else F.gelu(code)

    def reconstruction_loss(self, embedding: Tensor) -> Tensor:
        """Mean squared error of the centred embedding restored from its code (features of about unit variance)."""
        target = (embedding - self.mean) * embedding.shape[-1] ** 0.5
        return F.mse_loss(self.restore(self.code(embedding)), target)


class Resampler(nn.Module):
    """Vision states [B, N, width] → tokens [B, count, context], by cross-attention from learnt queries.

    The perceiver of Flamingo (Alayrac et al. 2022): queries attend to the states and to themselves.
    """

    def __init__(self, width: int, count: int, context: int, layers: int):
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, count, context) / context**0.5)
        self.project = nn.Linear(width, context)
        self.layers = nn.ModuleList(ResamplerLayer(context) for _ in range(layers))
        self.norm = nn.LayerNorm(context)

    def forward(self, states: Tensor) -> Tensor:
        states = self.project(states)
        tokens = self.queries.expand(len(states), -1, -1)
        for layer in self.layers:
            tokens = layer(tokens, states)
        return self.norm(tokens)


class ResamplerLayer(nn.Module):
    """Attention over states and tokens together, then a feed-forward; both residual."""

    def __init__(self, width: int):
        super().__init__()
        self.attention = CrossAttention(width)
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 4 * width)
        self.contract = nn.Linear(4 * width, width)

    def forward(self, tokens: Tensor, states: Tensor) -> Tensor:
        tokens = tokens + self.attention(tokens, states, tokens)
        return tokens + self.contract(F.gelu(self.expand(self.norm(tokens))))


class CrossAttention(nn.Module):
    """LN(x) attends to other token sequences of the same width; heads of 64 features where possible; [B, N, width]."""

    def __init__(self, width: int):
        super().__init__()
        self.heads = max(width // 64, 1)
        self.norm = nn.LayerNorm(width)
        self.norm_context = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        context = self.norm_context(torch.cat([c.expand(len(x), -1, -1) for c in context], dim=1))
        out = attend(self.to_q(self.norm(x)), self.to_k(context), self.to_v(context), self.heads)
        return self.to_out(out)
