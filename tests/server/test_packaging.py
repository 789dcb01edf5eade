"""What ComfyUI and its registry read of pyproject.toml."""

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
