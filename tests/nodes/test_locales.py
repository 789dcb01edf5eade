"""Every language in locales/ translates exactly what the nodes show: nothing missing, nothing left over."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LANGUAGES = sorted(folder.name for folder in (ROOT / "locales").iterdir() if folder.is_dir())
KEPT = re.compile(
    r"\d+(?:\.\d+)?|'[^']+'(?=[ ,:.;]|$)|[\w-]+/[\w/]+|\b\w+\.(?:txt|jsonl|md|py|yaml)\b|\b[a-z]+(?:_[a-z0-9]+)+\b"
)


def load(language: str, name: str) -> dict:
    return json.loads((ROOT / "locales" / language / f"{name}.json").read_text(encoding="utf-8"))


def english(node) -> dict:
    """A node's texts as nodeDefs.json lays them out. The frontend names outputs without a name after their type."""
    schema = node.GET_SCHEMA()
    inputs = {one.id: {"name": one.display_name or one.id, "tooltip": one.tooltip} for one in schema.inputs}
    outputs = {str(i): {"name": one.display_name, "tooltip": one.tooltip} for i, one in enumerate(schema.outputs)}
    return given(
        {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": inputs,
            "outputs": outputs,
        }
    )


def given(tree: dict) -> dict:
    """Without empty texts and branches."""
    branches = {key: given(value) if isinstance(value, dict) else value for key, value in tree.items()}
    return {key: value for key, value in branches.items() if value}


def flat(tree: dict, path: tuple = ()) -> dict[tuple, str]:
    """Path of keys → text."""
    if isinstance(tree, str):
        return {path: tree}
    return {key: text for name, branch in tree.items() for key, text in flat(branch, (*path, name)).items()}


def texts(in_comfy) -> dict[tuple, str]:
    return flat({name: english(node) for name, node in in_comfy.nodes.items()})


def translated(text: str, replacements: dict[str, str]) -> tuple[str, list[str]]:
    """What is left of an English text, and the translations of the names in it, the longest first."""
    found = []
    for name in sorted(replacements, key=len, reverse=True):
        if re.search(rf"(?<![\w/]){re.escape(name)}(?![\w/])", text):
            found.append(replacements[name])
            text = text.replace(name, " ")
    return text, found


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_translated_and_no_other(in_comfy, language):
    keys, expected = flat(load(language, "nodeDefs")), texts(in_comfy)
    assert not expected.keys() - keys.keys(), "missing"
    assert not keys.keys() - expected.keys(), "left over"
    assert all(text.strip() for text in keys.values())


@pytest.mark.parametrize("language", LANGUAGES)
def test_categories_and_socket_types_are_translated_and_no_other(in_comfy, language):
    main = load(language, "main")
    assert main.keys() == {"nodeCategories", "dataTypes"}
    schemas = [node.GET_SCHEMA() for node in in_comfy.nodes.values()]
    assert main["nodeCategories"].keys() == {part for schema in schemas for part in schema.category.split("/")}
    types = {one.get_io_type() for schema in schemas for one in (*schema.inputs, *schema.outputs)}
    assert {name for name in types if name.startswith("FACE")} <= main["dataTypes"].keys() <= types


@pytest.mark.parametrize("language", LANGUAGES)
def test_translations_keep_numbers_paths_options_and_names(in_comfy, language):
    """Names of nodes and inputs appear as the translation shows them, all else as in English."""
    defs = load(language, "nodeDefs")
    nodes = {node.GET_SCHEMA().display_name: defs[name]["display_name"] for name, node in in_comfy.nodes.items()}
    labels = {key: one["name"] for node in defs.values() for key, one in node.get("inputs", {}).items() if "_" in key}
    lost = []
    for path, text in texts(in_comfy).items():
        if path[-1] not in ("description", "tooltip"):
            continue
        own = {key: one["name"] for key, one in defs[path[0]].get("inputs", {}).items() if "_" in key}
        rest, wanted = translated(text, {**nodes, **labels, **own})
        translation = flat(defs)[path]
        lost += [(*path, one) for one in (*wanted, *KEPT.findall(rest)) if one not in translation]
    assert not lost, lost


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_translation_holds_what_the_frontend_would_compile(language):
    """vue-i18n reads braces as placeholders, | as plural forms and @ as links."""
    both = {**flat(load(language, "nodeDefs")), **flat(load(language, "main"))}
    assert not [path for path, text in both.items() if re.search(r"[{}|@]", text)]


@pytest.mark.parametrize("language", LANGUAGES)
def test_inputs_of_a_node_have_different_names(language):
    for name, node in load(language, "nodeDefs").items():
        for sockets in ("inputs", "outputs"):
            names = [one["name"] for one in node.get(sockets, {}).values() if "name" in one]
            assert len(names) == len(set(names)), (name, names)


DEFAULTS = {"zh": {"default": "默认", True: "开", False: "关", "": "空"}}


def default(value, language: str) -> str:
    """A default as the pages of a language write it."""
    terms = DEFAULTS[language]
    if isinstance(value, bool) or value == "":
        return terms["default"] + terms[value]
    return f"{terms['default']} {value:g}" if isinstance(value, int | float) else f"{terms['default']} `{value}`"


@pytest.mark.parametrize("language", LANGUAGES)
def test_help_pages_name_every_socket_as_the_node_shows_it(in_comfy, language):
    """A line per socket: `id` name, with its default."""
    defs = load(language, "nodeDefs")
    pages = sorted((ROOT / "web" / "docs").glob(f"*/{language}.md"))
    assert pages, "no help pages"
    lacking = []
    for page in pages:
        node, text = page.parent.name, page.read_text(encoding="utf-8")
        assert text.startswith(f"# {defs[node]['display_name']}\n"), page
        schema = in_comfy.nodes[node].GET_SCHEMA()
        for one in schema.inputs:
            head = re.search(rf"`{one.id}` {re.escape(defs[node]['inputs'][one.id]['name'])}([^：]*)", text)
            value = getattr(one, "default", None)
            if not head or (value is not None and f"{default(value, language)}）" not in head[1]):
                lacking.append(f"{node}: {one.id}, default {value!r}")
        for index, one in enumerate(schema.outputs):
            name = defs[node]["outputs"][str(index)].get("name")
            wanted = f"`{one.display_name}` {name}" if name else f"`{one.get_io_type()}`"
            if wanted not in text:
                lacking.append(f"{node}: output {wanted}")
    assert not lacking, "\n".join(lacking)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_glossary_translates_the_terms_of_the_english_one(language):
    def rows(path: Path) -> list[str]:
        return re.findall(r"^\| (?!-)(.+?) +\|", path.read_text(encoding="utf-8"), re.M)[1:]

    terms = rows(ROOT / "docs" / "glossary.md")
    assert [term for term in rows(ROOT / "locales" / language / "glossary.md") if term in terms] == terms
