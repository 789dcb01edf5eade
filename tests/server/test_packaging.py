"""What ComfyUI and its registry read of pyproject.toml."""

import re
from pathlib import Path

from PIL import Image

import facecdm

ROOT = Path(__file__).resolve().parents[2]


def test_comfyui_reads_our_configuration(in_comfy):
    from comfy_config import config_parser

    config = config_parser.extract_node_configuration(str(ROOT))
    assert config.project.name == config.tool_comfy.publisher_id == "facecdm"
    assert config.project.version == facecdm.__version__
    assert config.project.supported_comfyui_version == ">=0.3.75"
    assert config.project.license.text == "Apache-2.0" and "Apache License" in (ROOT / "LICENSE").read_text()


def test_the_icon_is_as_the_registry_wants_it(in_comfy):
    from comfy_config import config_parser

    icon = Image.open(ROOT / config_parser.extract_node_configuration(str(ROOT)).tool_comfy.icon)
    assert icon.width == icon.height <= 400


def test_every_node_has_a_help_page(in_comfy):
    lacking = [name for name in in_comfy.nodes if not (ROOT / "web" / "docs" / f"{name}.md").is_file()]
    assert not lacking, f"write web/docs/<node>.md for {lacking}"


def shown(default) -> str:
    """A default as the pages write it."""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, int | float):
        return f"{default:g}".replace("-", "−")
    return " and ".join(f"`{line}`" for line in default.splitlines()) or "empty"


def heads(page: str, title: str) -> str:
    """The heads of a section's list, a line each, as "`width` (default 0), `height` (default 0)"; of those only that at
    least three words follow."""
    section = page.partition(f"## {title}\n")[2].partition("\n## ")[0]
    return "\n".join(re.findall(r"^- (`[^:]+): \S+ \S+ \S", section.replace("\n  ", " "), re.M))


def test_every_page_explains_every_socket_and_default(in_comfy):
    lacking = []
    for name, node in in_comfy.nodes.items():
        page = (ROOT / "web" / "docs" / f"{name}.md").read_text(encoding="utf-8")
        inputs, outputs = heads(page, "Inputs"), heads(page, "Outputs")
        for entry in node.GET_SCHEMA().inputs:
            default = getattr(entry, "default", None)
            value = "(?! .default)" if default is None else rf" \((optional, )?default {re.escape(shown(default))}\)"
            if not re.search(f"`{entry.id}`{value}", inputs):
                lacking.append(f"{name}: input {entry.id}, default {default!r}")
        for entry in node.GET_SCHEMA().outputs:
            if f"`{entry.display_name or entry.get_io_type()}`" not in outputs:
                lacking.append(f"{name}: output {entry.display_name or entry.get_io_type()}")
    assert not lacking, "say in web/docs `name` (default value): a sentence.\n" + "\n".join(lacking)
