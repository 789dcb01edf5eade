"""Errors that a user can cause and correct. A message names the problem, the file or input, and the remedy."""

LONGEST = 1000  # characters of a message


class FaceCDMError(Exception):
    """Base of all of them. A message over 1,000 characters is cut in the middle.

    ComfyUI shows the type with its module, and imports the pack under the path of its folder, so the module of every
    subclass is cut down to the name inside the library.
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
    """Two inputs do not fit each other: adapter and base model, encoder and adapter, …"""


class BadFile(FaceCDMError):
    """A file is truncated, of an unknown format, or holds NaN."""


class NoFace(FaceCDMError):
    """A picture that needs a face shows none."""


class UnsafeName(FaceCDMError):
    """A name from a graph or a plan is no plain file name, or leaves its folder."""
