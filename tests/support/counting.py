"""What a U-Net call costs, counted by the torch profiler."""

from collections import Counter

import torch
from twins import predict

LINEAR = ("aten::linear", "aten::addmm", "aten::mm", "aten::bmm", "aten::matmul")
ATTENTION = ("aten::scaled_dot_product_attention",)
COPIES = ("aten::cat", "aten::repeat")
SYNCS = ("aten::item", "aten::_local_scalar_dense", "aten::nonzero")


def operations(model, prompt, negative, channels: int = 4) -> Counter:
    """Operations of one call of the model in the middle of a sampling: those of three calls less those of two."""
    torch.manual_seed(0)
    x = torch.randn(1, channels, 8, 8)

    def count(times: int) -> Counter:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            predict(model, x, 1.0, prompt, negative, cfg=4.0, times=times)
        return Counter({event.key: event.count for event in profile.key_averages()})

    predict(model, x, 1.0, prompt, negative, cfg=4.0)  # tokens are kept for later samplings
    more, fewer = count(3), count(2)
    return Counter({key: more[key] - fewer[key] for key in more})


def total(counts: Counter, names: tuple[str, ...]) -> int:
    return sum(counts[name] for name in names)
