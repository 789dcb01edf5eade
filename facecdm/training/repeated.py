"""Gradient checkpointing of a host's modules."""

from collections.abc import Callable

import torch
import torch.utils.checkpoint
from torch import nn

CALL = "facecdm_training"  # key of the call in the options; its `again` is True while the backward pass repeats it


class Repeated:
    """Gradient checkpointing of some modules, until `undo`."""

    def __init__(self, modules: list[nn.Module]):
        self._modules = modules
        for module in modules:
            module.forward = _repeated(module.forward)

    def undo(self) -> None:
        for module in self._modules:
            del module.forward


def _repeated(forward: Callable) -> Callable:
    def wrapper(*args, **kwargs):
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        # ComfyUI writes into the options during the forward pass; the repetition needs the unchanged ones.
        args = [_own(value) for value in args]
        kwargs = {name: _own(value) for name, value in kwargs.items()}
        calls = [value[CALL] for value in (*args, *kwargs.values()) if isinstance(value, dict) and CALL in value]
        times = 0

        def run(*args):
            nonlocal times
            times += 1
            for call in calls:
                call.again = times > 1
            return forward(*args, **kwargs)

        return torch.utils.checkpoint.checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)

    return wrapper


def _own(value: object) -> object:
    return dict(value) if isinstance(value, dict) else value
