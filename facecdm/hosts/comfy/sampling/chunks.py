"""The rows of a batch: core puts several conditionings into one, a chunk of rows for each."""

from collections.abc import Iterator
from itertools import groupby

import torch
from torch import Tensor

from ....adapter.stream_module import KeysValues

IMAGES = "facecdm_pictures"  # in transformer_options: which images of the batch are sampled, if not all of them
UNKNOWN_IMAGES = (
    "the batch has another number of pictures than its context window names, so references and poses may belong to "
    "other pictures than they are given to. Use one reference and one pose for all pictures, or no context windows."
)

Spans = Iterator[tuple[int, int, list[tuple[Tensor, Tensor]]]]


def spans(layers: list[KeysValues | None], index: int) -> Spans:
    """Neighbouring chunks whose streams have the same number of tokens: (first, count, keys and values of each)."""

    def tokens(chunk: KeysValues | None) -> int:
        made = chunk[index] if chunk else None
        return made[0].shape[1] if made else 0

    start = 0
    for present, group in groupby(layers, tokens):
        chunks = list(group)
        if present:
            yield start, len(chunks), [chunk[index] for chunk in chunks]
        start += len(chunks)


def join_chunks(chunks: list[Tensor], rows: int, images: tuple[int, ...] | None = None) -> Tensor:
    """Join values of neighbouring chunks [1 or images, N, C] for all their rows; [1, N, C] if all rows are equal."""
    if len(chunks[0]) == 1 and all(chunk is chunks[0] for chunk in chunks):
        return chunks[0]
    return torch.cat([rows_for_images(chunk, rows, images) for chunk in chunks])


def rows_for_images(chunk: Tensor, rows: int, images: tuple[int, ...] | None, cyclic: bool = False) -> Tensor:
    """Row i gets the i-th of `chunk`; a single one serves all rows.

    If there are fewer, the others get the last one, or, if `cyclic`, start again from the first.
    """
    if len(chunk) == 1:
        return chunk.expand(rows, -1, -1)
    wanted = images if images is not None and len(images) == rows else range(rows)
    return chunk[[image % len(chunk) if cyclic else min(image, len(chunk) - 1) for image in wanted]]


def sampled_images(extra_options: dict) -> tuple[int, ...] | None:
    """Which images of the batch are sampled now; None: all of them.

    Detail Faces, core's context windows and AnimateDiff sample a batch part by part.
    """
    if IMAGES in extra_options:
        return extra_options[IMAGES]
    window = extra_options.get("context_window")
    indices = getattr(window, "index_list", None) if getattr(window, "dim", 0) == 0 else None
    anchor = getattr(window, "causal_anchor_index", None)
    if indices is not None and anchor is not None and anchor >= 0:
        indices = (anchor, *indices)  # ComfyUI's causal_window_fix samples the frame before the window with it
    if indices is None:
        indices = (extra_options.get("ad_params") or {}).get("sub_idxs")
    return None if indices is None else tuple(indices)
