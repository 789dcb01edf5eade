"""The device and the CPU threads that a command or a configuration names."""

from .errors import FaceCDMError


def check_device(name: str | None) -> str:
    """The name of a device that works here, such as "cuda:1"; None: the GPU if there is one, else the CPU.

    Raises FaceCDMError.
    """
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.device(name)
    except RuntimeError as error:
        raise FaceCDMError(f"device {name!r} is not one that torch knows: use cpu, cuda, cuda:1 …") from error
    try:
        torch.empty(1, device=name)
    # A torch without the device raises many types: RuntimeError, AssertionError, NotImplementedError, ImportError.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FaceCDMError(
            f"device {name!r} cannot be used here ({reason:.200}): use cpu, or another device"
        ) from error
    return name


def use_threads(count: int) -> None:
    """Let torch use `count` CPU threads; 0 leaves the choice to torch. Raises FaceCDMError."""
    import torch

    if count < 0:
        raise FaceCDMError(f"threads must be at least 0; got {count}")
    if count:
        torch.set_num_threads(count)
