"""Counting what runs, for costs that timings are too noisy to show."""

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

ATEN = torch.ops.aten
LINEAR = (ATEN.mm, ATEN.addmm)


class Work(TorchDispatchMode):
    """Count what runs within a `with` block, outside of inference mode.

    flops    floating-point operations of matrix products and attention
    moved    bytes of the tensors that operations read and write
    written  bytes of the tensors that operations make
    kernels  operations that make a tensor
    linear   matrix products with weights
    syncs    values that the host waits for
    """

    def __init__(self):
        super().__init__()
        self.flops = self.moved = self.written = self.kernels = self.linear = self.syncs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        operation = func.overloadpacket
        if operation is ATEN._scaled_dot_product_flash_attention_for_cpu:  # not in torch's table
            operation = ATEN._scaled_dot_product_flash_attention
        if operation in flop_registry:
            self.flops += flop_registry[operation](*args, **(kwargs or {}), out_val=out)
        self.linear += operation in LINEAR
        self.syncs += operation is ATEN._local_scalar_dense
        if not func.is_view:
            self.moved += sum(value.nbytes for value in tree_leaves((args, kwargs, out)) if isinstance(value, Tensor))
        if isinstance(out, Tensor) and not (func.is_view or "empty" in str(func)):
            self.kernels += 1
            self.written += out.nbytes
        return out
