"""Names and captions from files. Those that cannot be stored or encoded are rejected before any picture is encoded."""

import unicodedata
from pathlib import Path

LONGEST_CAPTION = 10_000  # characters; a text encoder uses about 300
LONGEST_NAME = 500


def printable(text: str) -> str:
    """The text with line breaks, control characters and bytes that are not UTF-8 escaped."""
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return "".join(one.encode("unicode_escape").decode() if _is_control(one) else one for one in text)[:LONGEST_NAME]


def problem_of(name: str, person: str | None, caption: str | None) -> str:
    """The reason to reject a picture with this name, person and caption; "" if there is none."""
    for what, text in (("its name", name), ("the name of its person", person), ("its caption", caption)):
        try:
            (text or "").encode()
        except UnicodeEncodeError:
            return f"{what} is not UTF-8"
    for what, text in (("its name", name), ("the name of its person", person)):
        if any(map(_is_control, text or "")):
            return f"{what} holds a line break or another control character"
        if text and len(text) > LONGEST_NAME:
            return f"{what} is longer than {LONGEST_NAME} characters"
    if caption and len(caption) > LONGEST_CAPTION:
        return f"its caption is longer than {LONGEST_CAPTION:,} characters"
    return ""


def _is_control(character: str) -> bool:
    return unicodedata.category(character) in ("Cc", "Zl", "Zp")


def read_caption(path: Path) -> tuple[str | None, str]:
    """The caption in a text file, and the reason if it cannot be used."""
    try:
        with path.open("rb") as file:
            data = file.read(4 * LONGEST_CAPTION + 1)
        text = data.decode("utf-8-sig")
    except OSError as error:
        return None, f"its caption {path.name} cannot be read: {error.strerror or error}"
    except UnicodeDecodeError:
        return None, f"its caption {path.name} is not UTF-8"
    return text, f"its caption is longer than {LONGEST_CAPTION:,} characters" if len(data) > 4 * LONGEST_CAPTION else ""
