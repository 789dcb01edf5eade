"""Warnings for a pose that has no effect on a person, and for one that is missing."""

from collections.abc import Sequence

from ..adapter.person import Person
from ..invocation import command_line

LISTED = 10  # numbers of pictures in a message


def pose_warnings(person: Person, connected: bool, repeated: Sequence[int]) -> tuple[str, ...]:
    """The warnings for one person.

    connected  whether the person's node has a pose
    repeated   numbers of the pictures that use the face location of another picture
    """
    if not getattr(person.adapter.config, "spatial_tokens", False):
        return (_IGNORED,) if connected else ()
    if not connected:
        return _missing(person, "pose is not connected")
    if person.keypoints is None:
        return (_OUTSIDE, *_missing(person, "pose gives no face location"))
    return _repeated(person, repeated)


_IGNORED = (
    "pose is connected and not used: it conditions only FaceCDM's own adapters with spatial tokens (docs/training.md)"
)
_OUTSIDE = (
    "pose shows no face inside mask, so it is not used for this person: connect a mask that covers the person's face "
    "in the pose"
)


def _missing(person: Person, start: str) -> tuple[str, ...]:
    """A warning if the adapter does not find the location of the face, either."""
    face = person.settings.get("face")
    if person.finds_location or face is None or not face.strength:
        return ()
    return (
        f"{start}, and this adapter's face tokens depend on the location of the face: without it the "
        "face may be missing from the picture. Connect the pose of Extract Pose or Edit Pose, or give the adapter a "
        f"location head (`{command_line('train-location')}`).",
    )


def _repeated(person: Person, pictures: Sequence[int]) -> tuple[str, ...]:
    if not pictures:
        return ()
    where = "" if person.mask is None else " inside mask"
    more = f" and {len(pictures) - LISTED} more" if len(pictures) > LISTED else ""
    return (
        f"pose shows no face{where} in picture {', '.join(map(str, pictures[:LISTED]))}{more} (counted from 0): the "
        "face location of the picture before is used there, at the start that of the first face",
    )
