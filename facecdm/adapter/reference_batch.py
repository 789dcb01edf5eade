"""The references of a training batch: one person a row, each with its own noise level and prompt."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from .attention import LayerStream
from .gates import knot_weights
from .location import FaceLocation
from .model import TripletAdapter
from .stream_module import Extra, StreamModule, parts_of


@dataclass(frozen=True, eq=False)
class ReferenceBatch:
    """One person a row.

    face          unit face embeddings [B, W]
    image         vision states [B, N, V] or None
    face_on       [B] bool: the rows that have the face stream; the interplay also leaves out an absent stream
    image_on      [B] bool: the rows that have the image stream
    location      location of the faces, if the adapter is conditioned on it
    known_tokens  the rows' tokens by stream after the interplay, where they are known (see with_tokens)
    """

    face: Tensor
    image: Tensor | None
    face_on: Tensor
    image_on: Tensor
    location: FaceLocation | None = None
    known_tokens: dict[str, Tensor] | None = None

    def with_tokens(self, adapter: TripletAdapter, text: Tensor, text_mask: Tensor | None = None) -> "ReferenceBatch":
        """This batch with its `tokens`, which do not depend on the noise level; they are not computed again.

        It is valid for this adapter and text only, while the adapter's weights and the rows' streams do not change.
        """
        return replace(self, known_tokens=self.tokens(adapter, text, text_mask))

    def part(self, rows: Tensor) -> "ReferenceBatch":
        """The rows [k] int64 of the batch."""
        known = self.known_tokens
        return ReferenceBatch(
            self.face[rows],
            None if self.image is None else self.image[rows],
            self.face_on[rows],
            self.image_on[rows],
            None if self.location is None else self.location.part(rows),
            None if known is None else {name: tokens[rows] for name, tokens in known.items()},
        )

    def tokens(self, adapter: TripletAdapter, text: Tensor, text_mask: Tensor | None = None) -> dict[str, Tensor]:
        """Tokens by stream after the interplay with `text` [B, T, context]; zeros where a stream is off.

        Known tokens are returned as they are; the arguments are not used then.

        text_mask  [B, T] bool: the tokens of each text, which are its first; None: all are
        """
        if self.known_tokens is not None:
            return self.known_tokens
        projected = adapter.project(self.face, self.image)
        on = {"face": self.face_on, "image": self.image_on if "image" in projected else torch.zeros_like(self.face_on)}
        if not adapter.depends_on_text and not any(value.requires_grad for value in _weights(adapter.interplay)):
            return {name: value * on[name][:, None, None] for name, value in projected.items()}
        result = {name: torch.zeros_like(value) for name, value in projected.items()}
        for present in ({"face", "image"}, {"face"}, {"image"}):
            shown = torch.stack([on[name] == (name in present) for name in on]).all(0)
            for rows, length in _of_one_length(shown, text, text_mask) if present <= projected.keys() else ():
                tokens_for_text = adapter.apply_interplay(
                    {name: projected[name][rows] for name in sorted(present)}, text[rows, :length].float()
                )
                result |= {name: result[name].index_copy(0, rows, value) for name, value in tokens_for_text.items()}
        return result

    def streams(
        self,
        adapter: TripletAdapter,
        text: Tensor,
        sigma: Tensor,
        dtype: torch.dtype,
        extra: Extra | None = None,
        watch: Callable[[Tensor], None] | None = None,
        text_mask: Tensor | None = None,
    ) -> list[list[LayerStream]]:
        """The streams of every layer, with gradients.

        sigma  noise level of each row [B]
        extra  low-rank modules that are added to key and value weights
        watch  called with the face stream's result in every layer
        text_mask  as in `tokens`
        """
        layers = adapter.config.layer_map.layers
        people: list[list[LayerStream]] = [[] for _ in layers]
        on, parts = {"face": self.face_on, "image": self.image_on}, parts_of(adapter)
        for name, tokens in self.tokens(adapter, text, text_mask).items():
            stream = adapter.streams[name]
            gates = _gates(stream, adapter, sigma).to(dtype).split([layer.width for layer in layers], dim=1)
            mask = on[name].to(dtype)[:, None, None]
            router = stream.router
            if router is not None and not (router.requires_grad or router.any()):
                router = None
            kappa = stream.kappa if stream.kappa.requires_grad or stream.kappa.item() else None
            location, tokens = self.location if name == "face" else None, tokens.to(dtype)
            for index, project in enumerate(stream.projections(extra or {})):
                if project is None:
                    continue
                k, v = project(tokens) if location is None else (tokens, tokens)
                people[index].append(
                    LayerStream(
                        0,
                        len(tokens),
                        k,
                        v,
                        gates[index][:, None],
                        kappa,
                        mask,
                        watch if name == "face" else None,
                        router=None if router is None else router[index],
                        location=location,
                        project=None if location is None else project,
                        place=stream.place,
                        part=parts[name].get(index),
                        tokens=tokens,
                    )
                )
        return people


def _of_one_length(chosen: Tensor, text: Tensor, mask: Tensor | None) -> list[tuple[Tensor, int]]:
    """The chosen rows [B] bool, those with texts of one length together: their indices, and the length."""
    rows = chosen.nonzero()[:, 0]
    if mask is None:
        return [(rows, text.shape[1])] if len(rows) else []
    lengths = mask.sum(1).expand(len(text))[rows]
    return [(rows[lengths == length], length) for length in lengths.unique().tolist()]


def _weights(part: nn.Module | None):
    return part.parameters() if part is not None else ()


def _gates(stream: StreamModule, adapter: TripletAdapter, sigma: Tensor) -> Tensor:
    """The gates of every row at its own noise level, [B, Σ width]."""
    heads = torch.ones(adapter.config.layer_map.heads, device=sigma.device)
    return knot_weights(sigma, len(stream.gate.knots)) @ stream.gate.table(heads)
