"""The triplet adapter: features to tokens, tokens to keys and values, and the gates on them."""

import copy
from collections.abc import Iterable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..bases.layers import LayerMap
from ..faces.location import scaled
from .cells import StreamCells
from .config import CELL_HEAD, AdapterConfig
from .interplay import Interplay
from .location_head import LocationHead, trust
from .projectors import Bottleneck, Resampler
from .stream_module import Extra, Projection, TrainableStream


class StreamLayers(TrainableStream):
    """One stream's keys, values and gates in every cross-attention layer, and optionally a `router` [layers, 4]."""

    def __init__(self, layer_map: LayerMap, knots: int, dtype: torch.dtype, router: bool = False):
        super().__init__(layer_map, tuple(range(len(layer_map.layers))))
        self.to_k, self.to_v = (
            nn.ModuleList(
                nn.Linear(layer_map.context, layer.width, bias=False, dtype=dtype) for layer in layer_map.layers
            )
            for _ in range(2)
        )
        self.add_gates(layer_map, knots)
        self.router = nn.Parameter(torch.zeros(self.count, 4)) if router else None

    def projections(self, extra: Extra) -> list[Projection | None]:
        def one(part: nn.Linear, tokens: Tensor) -> Tensor:
            made = F.linear(tokens, part.weight.to(tokens))
            return made + extra[part](tokens) if part in extra else made

        def both(parts: tuple[nn.Linear, nn.Linear], tokens: Tensor) -> tuple[Tensor, Tensor]:
            return one(parts[0], tokens), one(parts[1], tokens)

        return [partial(both, parts) for parts in zip(self.to_k, self.to_v)]

    def low_rank_layers(self) -> list[nn.Linear]:
        return [*self.to_k, *self.to_v]

    def last_layers(self) -> nn.ModuleList:
        return self.to_v


class TripletAdapter(nn.Module):
    """Face and image streams for the cross-attention of one base model, or for the blocks of a DiT (docs/method.md).

    A new adapter is a no-op: its gates are zero, so the base model is bit-exactly unchanged. Its values are not zero,
    so the first gradient reaches the gates. `dtype` applies to the key and value weights, by far the largest part; the
    other weights are fp32.
    """

    def __init__(self, config: AdapterConfig, dtype: torch.dtype = torch.float32):
        super().__init__()
        self.config = config
        context = config.width
        self.face_projector = Bottleneck(
            config.face_width, config.face_rank, config.face_tokens, context, config.face_content
        )
        self.image_projector = (
            Resampler(config.image_width, config.image_tokens, context, config.image_layers)
            if config.image_width
            else None
        )
        text = config.layer_map.context
        self.interplay = Interplay(context, config.streams, text) if config.interplay else None
        self.location_head = LocationHead(config.location_channels) if config.location_channels else None
        self._heads: dict[torch.device, LocationHead] = {}  # copies of it on other devices
        self.streams = nn.ModuleDict({stream: self._new_stream(dtype) for stream in config.streams})

    def _new_stream(self, dtype: torch.dtype) -> TrainableStream:
        config = self.config
        if not config.layer_map.is_dit:
            return StreamLayers(config.layer_map, config.knots, dtype, config.router)
        width, heads = config.cell_width, config.cell_width // CELL_HEAD
        return StreamCells(config.layer_map, config.cells_at, config.width, width, heads, dtype, config.knots)

    @torch.no_grad()
    def init_from_text(self, keys_values: Iterable[tuple[Tensor, Tensor]]) -> "TripletAdapter":
        """Copy the base model's key and value weights for text, in the layer map's order, into every stream.

        There are none of a DiT, whose cells keep their random weights.
        """
        for i, (k, v) in enumerate(keys_values):
            for stream in self.streams.values():
                stream.to_k[i].weight.copy_(k)
                stream.to_v[i].weight.copy_(v)
        return self

    def project(self, face: Tensor | None, image: Tensor | None) -> dict[str, Tensor]:
        """Unit face embeddings [B, face_width] and vision states [B, N, image_width] → tokens by stream.

        A stream whose features are None, or that the adapter does not have, is absent from the result.
        """
        tokens = {}
        if face is not None:
            tokens["face"] = self.face_projector(face)
        if image is not None and self.image_projector is not None:
            tokens["image"] = self.image_projector(image)
        return tokens

    def apply_interplay(self, tokens: dict[str, Tensor], text: Tensor) -> dict[str, Tensor]:
        """Apply the interplay with one prompt's text tokens [B or 1, T, context]; without one, return `tokens`."""
        return self.interplay(tokens, text) if self.interplay is not None else tokens

    @torch.no_grad()
    def locate(self, clean: Tensor, sigma: Tensor, region: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Key points [B, 5, 2] in 0…1 of the picture and trust [B] in 0…1 from predicted clean latents [B, C, h, w].

        sigma   noise level σ at which they were predicted [1 or B]
        region  where the face may be, [1 or B, 1, h, w] in 0…1; None: everywhere

        Latents may have twice the head's height and width and a quarter of its channels, or the reverse, as the demo
        model's latents in ComfyUI and in training.
        """
        head, (height, width) = self._head_on(clean.device), clean.shape[-2:]
        right, down = 0, 0
        if clean.shape[1] * 4 == head.channels:
            right, down = width % 2, height % 2
            clean = F.pixel_unshuffle(F.pad(clean, (0, right, 0, down)), 2)
            region = None if region is None else F.avg_pool2d(F.pad(region, (0, right, 0, down)), 2)
        elif clean.shape[1] == head.channels * 4:
            clean = F.pixel_shuffle(clean, 2)
            region = None if region is None else F.interpolate(region, scale_factor=2)
        points, log_std = head(clean.float(), sigma.float().expand(len(clean)), region)
        points = scaled(points, (width + right) / width, (height + down) / height)
        return points, trust(points, log_std)

    def _head_on(self, device: torch.device) -> LocationHead:
        """The location head in float32 on `device`. The adapter itself is not moved, since models share it."""
        if device not in self._heads:
            head = copy.deepcopy(self.location_head).to(device, torch.float32)
            self._heads[device] = head.to(memory_format=torch.channels_last)  # a fifth faster
        return self._heads[device]

    @property
    def is_new(self) -> bool:
        """Whether every gate is zero, as at initialisation."""
        return all(stream.gate.is_zero for stream in self.streams.values())

    @property
    def depends_on_text(self) -> bool:
        """Whether keys and values depend on the prompt."""
        return self.interplay is not None and not self.interplay.is_identity
