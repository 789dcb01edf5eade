"""The optimiser of the demo model's U-Net, and its attention on a CPU."""

import pytest
import torch

from facecdm.demo import optimise
from facecdm.demo.unet import build_unet, use_plain_attention


@pytest.mark.parametrize("columns", [8, 31, 32, 200])
def test_singular_values_come_near_one_and_directions_stay(columns):
    torch.manual_seed(0)
    matrices = torch.randn(3, 8, columns) * torch.tensor([1.0, 1e-3, 100.0])[:, None, None]
    new = optimise.orthogonalised(matrices)
    left, values, right = torch.linalg.svd(matrices, full_matrices=False)
    kept = values > 0.05 * values[:, :1]  # smaller ones take more steps
    along = (left.mT @ new @ right.mT).diagonal(dim1=1, dim2=2)
    assert new.dtype == torch.float32 and (along[kept] - 0.9).abs().max() < 0.3
    assert (new - left @ torch.diag_embed(along) @ right).norm() < 0.05 * new.norm()


def test_wide_matrices_take_the_same_steps(monkeypatch):
    matrices = torch.randn(2, 16, 100, generator=torch.Generator().manual_seed(0))
    fast = optimise.orthogonalised(matrices)
    monkeypatch.setattr(optimise, "WIDE", 1000)
    assert (fast - optimise.orthogonalised(matrices)).norm() < 0.03 * fast.norm()


def test_a_matrix_of_zeros_stays_zero():
    assert not optimise.orthogonalised(torch.zeros(1, 4, 64)).any()


def test_plain_attention_equals_the_fused_kernel(monkeypatch):
    torch.manual_seed(0)
    unet = build_unet(
        {
            "sample_size": 8,
            "in_channels": 4,
            "out_channels": 4,
            "block_out_channels": [64],
            "layers_per_block": 1,
            "down_block_types": ["CrossAttnDownBlock2D"],
            "up_block_types": ["CrossAttnUpBlock2D"],
            "cross_attention_dim": 32,
            "attention_head_dim": [2],
        }
    )
    inputs = torch.randn(2, 4, 8, 8), torch.tensor([3, 700]), torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = unet(*inputs).sample
        use_plain_attention(unet)
        monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", None)
        assert torch.allclose(unet(*inputs).sample, expected, atol=1e-5)
