"""The resolution of a base model's layers."""

from ..errors import Mismatch


def layer_grid(positions: int, height: int, width: int) -> tuple[int, int]:
    """(rows, columns) of a layer of `positions`; each level of a U-Net halves height × width latents, rounding up.

    Raises Mismatch if no level has that many positions.
    """
    rows, columns = height, width
    while rows * columns > max(positions, 1):
        rows, columns = -(-rows // 2), -(-columns // 2)
    if rows * columns != positions:
        raise Mismatch(f"a layer of {positions} positions does not belong to latents of {width} × {height}")
    return rows, columns


def token_grid(height: int, width: int, patch: int) -> tuple[int, int]:
    """(rows, columns) of a DiT's image tokens for height × width latents, which it pads to whole patches."""
    return -(-height // patch), -(-width // patch)
