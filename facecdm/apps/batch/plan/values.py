"""Check one value against the declaration of its input in a server's /object_info."""

import difflib
import math
from typing import Any

MODEL_SUFFIXES = (".safetensors", ".ckpt", ".pt", ".pt2", ".pth", ".bin", ".onnx", ".gguf", ".sft")
UPLOADS = ("image_upload", "animated_image_upload", "video_upload", "audio_upload", "file_upload")


def declarations(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any], bool]]:
    """Inputs of a node class: name → (type, options, required). Unreadable entries are left out."""
    found = {}
    for group in ("optional", "required"):
        inputs = info.get("input", {}).get(group) if isinstance(info.get("input"), dict) else None
        for name, declared in (inputs or {}).items() if isinstance(inputs, dict | None) else ():
            if isinstance(declared, list) and declared:
                options = declared[1] if len(declared) > 1 and isinstance(declared[1], dict) else {}
                found[name] = (declared[0], options, group == "required")
    return found


def takes_file(options: dict[str, Any]) -> bool:
    return any(options.get(name) for name in UPLOADS)


def fit(value: Any, kind: Any, options: dict[str, Any], info: dict[str, Any] | None = None) -> Any:
    """Convert the value to the input's type: "4" from a table becomes 4. Raises ValueError with the reason.

    info  /object_info; types that no node in it makes, such as WEBCAM, take any value
    """
    kinds = ["COMBO"] if isinstance(kind, list) else [part.strip() for part in str(kind).split(",")]
    if "COMBO" in kinds:
        return _choice(value, kind if isinstance(kind, list) else options.get("options"), options)
    readers = [_READERS[part] for part in kinds if part in _READERS]
    if not readers:
        if "*" not in kinds and not isinstance(value, list | dict) and (info is None or _is_made(kinds, info)):
            raise ValueError(f"takes a link ({kind}), not a value")
        return value
    for reader in readers[:-1]:
        try:
            return reader(value, options)
        except ValueError:
            continue
    return readers[-1](value, options)


def _is_made(kinds: list[str], info: dict[str, Any]) -> bool:
    """Whether a node has an output of one of these types."""
    outputs = [node.get("output") for node in info.values() if isinstance(node, dict)]
    types = [kind for kinds in outputs if isinstance(kinds, list) for kind in kinds if isinstance(kind, str)]
    return any(part.strip() in kinds for kind in types for part in kind.split(","))


def _whole(value: Any, options: dict[str, Any]) -> int:
    if isinstance(value, str):
        try:
            value = int(value.strip())
        except ValueError:
            pass
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(f"{_shown(value)} is not a whole number")
    return _in_range(value, options)


def _fraction(value: Any, options: dict[str, Any]) -> float:
    if isinstance(value, str):
        try:
            value = float(value.strip())
        except ValueError:
            pass
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{_shown(value)} is not a number")
    return _in_range(value, options)


def _in_range(value: Any, options: dict[str, Any]) -> Any:
    least, most = (options.get(key) for key in ("min", "max"))
    if isinstance(least, int | float) and value < least:
        raise ValueError(f"{value} is less than {least}")
    if isinstance(most, int | float) and value > most:
        raise ValueError(f"{value} is more than {most}")
    return value


def _text(value: Any, options: dict[str, Any]) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise ValueError(f"{_shown(value)} is not text")
    return str(value)


def _yes_no(value: Any, options: dict[str, Any]) -> bool:
    texts = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
    if isinstance(value, str):
        value = texts.get(value.strip().lower(), value)
    if not isinstance(value, bool):
        raise ValueError(f"{_shown(value)} is neither true nor false")
    return value


def _choice(value: Any, choices: Any, options: dict[str, Any]) -> Any:
    if not isinstance(choices, list) or "remote" in options:
        return value  # the choices are not known here
    if isinstance(value, list) and (options.get("multiselect") or options.get("multi_select")):
        return [_choice(item, choices, {}) for item in value]
    if not isinstance(value, bool) and value in choices:
        return value
    by_text = {str(choice): choice for choice in choices}
    if isinstance(value, str | int | float) and str(value) in by_text:
        return by_text[str(value)]
    if isinstance(value, str) and value.lower().endswith(MODEL_SUFFIXES):
        raise ValueError(f"there is no model file {_shown(value)}; {_offer(value, by_text)}")
    raise ValueError(f"{_shown(value)} is not one of the choices; {_offer(str(value), by_text)}")


def _offer(value: str, choices: dict[str, Any]) -> str:
    if not choices:
        return "there is nothing to choose from"
    close = difflib.get_close_matches(value, choices, 3, 0.4) if len(choices) <= 5000 else []
    shown = list(choices) if len(choices) <= 12 else close or list(choices)[:5]
    return f"there are {', '.join(shown)}" + (f" and {len(choices) - len(shown)} more" * (len(choices) > len(shown)))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


_READERS = {"INT": _whole, "FLOAT": _fraction, "STRING": _text, "BOOLEAN": _yes_no}
