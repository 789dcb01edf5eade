"""Compare tensors, and fill models with random weights."""

import torch


def close(one, other, tolerance: float = 1e-5):
    """Assert that two outputs agree, relative to the largest value of the second; dtypes may differ."""
    torch.testing.assert_close(one, other, rtol=0, atol=tolerance * other.abs().max().item(), check_dtype=False)


@torch.no_grad()
def fill_randomly(module, seed: int, norms: str, bias: float):
    """Random values in every parameter, also where training starts from zeros.

    norms  part of the names of the norms' weights, which are near 1
    bias   standard deviation of the other vectors; a matrix with n inputs has 1/√n
    """
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        vector = 0.1 if norms in name else bias
        value.copy_(noise * (value.shape[-1] ** -0.5 if value.ndim > 1 else vector) + (norms in name))
