"""One of the processes that train together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Worker:
    """One of `count` processes that share every batch.

    rank       0 … count − 1; rank 0 reads and writes the files
    mean       averages a tensor over the processes, in place, and returns it
    broadcast  returns rank 0's bytes in every process
    """

    rank: int = 0
    count: int = 1
    mean: Callable[[Tensor], Tensor] = field(default=lambda value: value)
    broadcast: Callable[[bytes], bytes] = field(default=lambda value: value)

    @torch.no_grad()
    def average(self, gradients: Sequence[Tensor]) -> None:
        """Average gradients over the processes, in place, in one message instead of hundreds."""
        if self.count == 1:
            return
        whole = self.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, whole.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(mean.view_as(gradient))

    @classmethod
    def of(cls, accelerator) -> "Worker":
        """The worker of an accelerate `Accelerator`; a single process without one."""
        if accelerator is None:
            return ALONE
        from accelerate.utils import broadcast_object_list

        return cls(
            accelerator.process_index,
            accelerator.num_processes,
            lambda value: accelerator.reduce(value, "mean"),
            lambda value: broadcast_object_list([value])[0],
        )


ALONE = Worker()
