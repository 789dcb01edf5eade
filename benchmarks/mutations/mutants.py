"""Mutants of the library's files: one change each, made by cosmic-ray's operators."""

import ast
import difflib
import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cosmic_ray.ast  # first, else parso and cosmic_ray.plugins import each other in a circle
import cosmic_ray.plugins
from cosmic_ray.mutating import mutate_code

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {
    "adapter": "facecdm/adapter",
    "bases": "facecdm/bases",
    "formats": "facecdm/formats",
    "hosts": "facecdm/hosts",
    "losses": "facecdm/training/losses",
    "pose": "facecdm/pose/value.py",
    "journal": "facecdm/apps/batch/execution/journal.py",
}


@dataclass(frozen=True)
class Mutant:
    """One change of one file.

    package     key of PACKAGES
    file        path in the repository
    line        number of the line that the change begins in, from 1
    operator    cosmic-ray's name, such as core/NumberReplacer
    occurrence  number of the operator's application in the file, from 0
    in_function  whether the change is in a function's body, where code can be exchanged in a running process
    """

    package: str
    file: str
    line: int
    operator: str
    occurrence: int
    in_function: bool

    def source(self) -> str:
        """The changed file."""
        operator = cosmic_ray.plugins.get_operator(self.operator)()
        return mutate_code((ROOT / self.file).read_text(encoding="utf-8"), operator, self.occurrence)

    def change(self) -> str:
        """The changed lines, before → after."""
        before, after = (ROOT / self.file).read_text(encoding="utf-8").splitlines(), self.source().splitlines()
        parts = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
        pairs = [(before[a:b], after[c:d]) for kind, a, b, c, d in parts if kind != "equal"]
        return "; ".join(" → ".join(" ".join(line.strip() for line in lines) for lines in pair) for pair in pairs)


def sample(package: str, most: int, seed: int) -> list[Mutant]:
    """Up to `most` mutants of a package, at random.

    At each position of a file, one operator of each kind (comparison, binary, number …) is drawn. Otherwise the many
    ways to replace one + would outweigh all other changes.
    """
    rng = random.Random(f"{package} {seed}")
    drawn = [rng.choice(same) for path in files(package) for same in _by_position(package, path)]
    return rng.sample(drawn, min(most, len(drawn)))


def files(package: str) -> list[Path]:
    path = ROOT / PACKAGES[package]
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


def _by_position(package: str, path: Path) -> Iterator[list[Mutant]]:
    source = path.read_text(encoding="utf-8")
    tree, nodes = ast.parse(source), list(cosmic_ray.ast.ast_nodes(cosmic_ray.ast.get_ast(source)))
    annotations, bodies = list(_annotations(tree)), list(_bodies(tree))
    found = defaultdict(list)
    for name in filter(_used, cosmic_ray.plugins.operator_names()):
        operator = cosmic_ray.plugins.get_operator(name)()
        positions = [position for node in nodes for position in operator.mutation_positions(node)]
        for occurrence, (start, _) in enumerate(positions):
            if not any(_holds(span, start) for span in annotations):
                kind = name.partition("_")[0]
                inside = any(_holds(span, start) for span in bodies)
                mutant = Mutant(package, path.relative_to(ROOT).as_posix(), start[0], name, occurrence, inside)
                found[start, kind].append(mutant)
    yield from found.values()


def _used(operator: str) -> bool:
    """Not operators that need arguments, nor `==` → `is`, which is the same for small numbers and short strings."""
    to_identity = operator.endswith(("_Is", "_IsNot")) and "Operator_Is" not in operator
    return not (operator.startswith("core/Variable") or to_identity)


def _annotations(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        for name in ("annotation", "returns"):
            if getattr(node, name, None) is not None:
                yield getattr(node, name)


def _bodies(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield from node.body


def _holds(node: ast.AST, start: tuple[int, int]) -> bool:
    return (node.lineno, node.col_offset) <= start < (node.end_lineno, node.end_col_offset)
