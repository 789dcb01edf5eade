"""Areas of conditionings on latents with a pixel shuffle, whose pairs of rows and columns must stay together."""

from collections.abc import Callable

from torch import Tensor

SHUFFLE = 2  # latents per position of the U-Net, along one side


def align_areas(executor: Callable, model, conds: list, x_in: Tensor, *args, **kwargs) -> list[Tensor]:
    """CALC_COND_BATCH wrapper: let every conditioning's area begin and end between positions of the U-Net.

    Its mask, if it has one, still limits where it acts.
    """
    for cond in (cond for group in conds for cond in group or () if cond.get("area") is not None):
        cond["area"] = aligned(tuple(cond["area"]), tuple(x_in.shape[2:]))
    return executor(model, conds, x_in, *args, **kwargs)


def aligned(area: tuple[int, ...], size: tuple[int, ...]) -> tuple[int, ...]:
    """The smallest area of whole positions around `area`: sides, then corners, in latents of a picture of `size`."""
    sides, corners = area[: len(area) // 2], area[len(area) // 2 :]
    begins = [corner - corner % SHUFFLE for corner in corners]
    ends = [corner + side + (corner + side) % SHUFFLE for corner, side in zip(corners, sides)]
    return (*(min(end, most) - begin for begin, end, most in zip(begins, ends, size)), *begins)
