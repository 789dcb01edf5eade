"""Errors that a user can cause and correct. A message names the problem, the file or input, and the remedy."""

LONGEST = 1000  # most characters of a message


class FaceCDMError(Exception):
    """Base class. A message over 1,000 characters is cut in the middle.

    ComfyUI shows an error's type with its module, whose name contains the path of FaceCDM's folder. The module of
    every subclass is therefore shortened to its name inside the library.
    """

    __module__ = "facecdm.errors"

    def __init_subclass__(cls, **options) -> None:
        super().__init_subclass__(**options)
        cls.__module__ = "facecdm." + cls.__module__.rpartition("facecdm.")[2]

    def __str__(self) -> str:
        text = super().__str__()
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 304]} … {text[-300:]}"


class MissingPackage(FaceCDMError):
    """An optional Python package is not installed."""


class MissingModel(FaceCDMError):
    """A model file or folder was not found."""


class UnsupportedModel(FaceCDMError):
    """The base model has no U-Net cross-attention that FaceCDM can patch."""


class Mismatch(FaceCDMError):
    """Two inputs are incompatible: adapter and base model, encoder and adapter, …"""


class BadFile(FaceCDMError):
    """A file is truncated, has an unknown format, or contains NaN."""


class NoFace(FaceCDMError):
    """No face was found in a picture that needs one."""


class UnsafeName(FaceCDMError):
    """A name from a graph or a plan is not a plain file name, or leaves its folder."""
