"""What can go wrong for a user, as types; every message says what, where, and what to do."""


class FaceCDMError(Exception):
    """Root of every error that a person can cause and mend."""


class MissingPackage(FaceCDMError):
    """An optional Python package is needed and not installed."""


class MissingModel(FaceCDMError):
    """A model file or folder is needed and not found."""


class UnsupportedModel(FaceCDMError):
    """The base model has no U-Net cross-attention that FaceCDM can patch."""


class Mismatch(FaceCDMError):
    """Two inputs do not belong together (adapter and base, encoder and adapter, …)."""


class BadFile(FaceCDMError):
    """A file is truncated, of an unknown format, or holds NaN."""


class NoFace(FaceCDMError):
    """A picture shows no face, and the user asked for an error."""


class UnsafeName(FaceCDMError):
    """A name from a graph or a plan would leave its folder."""
