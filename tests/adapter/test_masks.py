"""A region mask at a layer's resolution."""

import torch

from facecdm.adapter.masks import resize_mask


def test_each_position_has_the_share_of_its_area_that_the_mask_covers():
    """Nearest or linear sampling would give 0 or 1 here, and lose thin masks altogether."""
    mask = torch.zeros(12, 12)
    mask[:, ::3] = 1  # every third column
    torch.testing.assert_close(resize_mask(mask, 4, 4), torch.full((1, 16, 1), 1 / 3))
    mask = torch.zeros(12, 12)
    mask[:4, :6] = 1
    torch.testing.assert_close(resize_mask(mask, 2, 2).view(2, 2), torch.tensor([[2 / 3, 0], [0, 0]]))
