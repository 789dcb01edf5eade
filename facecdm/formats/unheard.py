"""What is connected or set and changes nothing: told, not refused, so that a graph works with another file, too."""

from .recognise import Recognised


def unseen_pictures(parts: dict[str, Recognised], connected: tuple[str, ...]) -> tuple[str, ...]:
    """For the names of `connected` inputs that show pictures, where no stream looks at any."""
    if not connected or any(part.family.picture for part in parts.values()):
        return ()
    names = " and ".join(part.family.name for part in parts.values())
    return (f"{' and '.join(connected)} {'is' if len(connected) == 1 else 'are'} connected, and {names} looks at no "
            "picture: nothing of it is heard. Disconnect it, or add an image stream with Combine Adapters.",)
