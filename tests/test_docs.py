"""The documents in this repository."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from tests.support import kinds
from tests.support.data_jobs import JOBS
from tests.support.kinds import KINDS
from tests.support.kinds.kind import EXACT, JAX, NAMED, REFUSED, TENSORFLOW, TORCH

ROOT = Path(__file__).parents[1]
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "benchmarks" / "README.md"),
    *sorted((ROOT / "docs").glob("*.md")),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text_of(document: Path) -> str:
    """Return a document without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)


def anchors_in(document: Path) -> set[str]:
    """Return the anchors of a document's headings, as GitHub makes them."""
    headings = re.findall(r"^#{1,6} +(.+?) *$", text_of(document), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(document: Path) -> None:
    targets = [link for link in LINK.findall(text_of(document)) if not re.match(r"\w+:", link)]
    for target in targets:
        name, _, anchor = target.partition("#")
        path = document.parent / name if name else document
        assert path.exists(), target
        if anchor:
            assert anchor in anchors_in(path), target


def test_a_link_with_an_anchor_is_among_them() -> None:
    links = [link for document in DOCUMENTS for link in LINK.findall(text_of(document))]
    assert any("#" in link and not re.match(r"\w+:", link) for link in links)


RESUMING = ROOT / "docs" / "resuming.md"
COLUMNS = "what | TensorFlow | JAX | PyTorch | how it is kept, or what is said | proof"
BACKENDS = (TENSORFLOW, JAX, TORCH)
# What a cell may say of a kind, by what is expected of it.
WORDS = {
    EXACT: {"exact", "replayed"},
    NAMED: {"named"},
    REFUSED: {"refused"},
}
# What a cell says where nothing is proved.
UNPROVED = {"—", "not supported by Keras", "not tested"}
# Keras offers no steps_per_execution on PyTorch.
NOT_ON_TORCH = {name for name in JOBS if "at once" in name}
# The tests of this file run on other backends than TensorFlow.
ELSEWHERE = "test_resuming_on_other_backends"
MODULES = {module.__name__.rpartition(".")[2]: module.KINDS for module in kinds._MODULES}
KNOWN = KINDS.keys() | JOBS.keys()


@dataclass(frozen=True)
class Row:
    """A row of the table of all state and data.

    Attributes:
        what: Its first cell.
        cells: What it says of each of `BACKENDS`.
        named: The kinds that it names.
        begun: Beginnings of the names of other kinds ("a GAN…").
        others: Modules of which all kinds belong to it that no row names otherwise.
        tests: File and function of the tests that it names.
    """

    what: str
    cells: tuple[str, ...]
    named: frozenset[str]
    begun: tuple[str, ...]
    others: tuple[str, ...]
    tests: tuple[tuple[str, str], ...]


def tables() -> list[list[str]]:
    """Return the lines of each table of the document, without the bars at their ends."""
    found = re.findall(r"(?:^\|.*\|\n)+", text_of(RESUMING), re.MULTILINE)
    return [[line.strip("|").strip() for line in table.splitlines()] for table in found]


def row_of(line: str) -> Row:
    what, *cells, _, proof = line.split(" | ")
    quoted = re.findall(r'"([^"]+)"', proof)
    return Row(
        what,
        tuple(cells),
        frozenset(name for name in quoted if not name.endswith("…")),
        tuple(name[:-1] for name in quoted if name.endswith("…")),
        tuple(re.findall(r"the others of `(\w+)\.py`", proof)),
        tuple(re.findall(r"`tests/(\w+)\.py::(\w+)`", proof)),
    )


@cache
def rows() -> list[Row]:
    return [row_of(line) for _, _, *lines in tables() for line in lines]


@cache
def names_of(row: Row) -> frozenset[str]:
    """Return all kinds that belong to a row."""
    unnamed = KNOWN - {name for other in rows() for name in other.named}
    begun = {name for name in unnamed if name.startswith(row.begun)}
    starts = tuple(start for other in rows() for start in other.begun)
    left = {name for name in unnamed if not name.startswith(starts)}
    return row.named.union(begun, *(left & MODULES[module].keys() for module in row.others))


def expectations(row: Row, backend: str) -> list[tuple[str, set[str]]]:
    """Return the kinds of a row that run on a backend, each with what the cell may say of it."""
    found = []
    for name in sorted(names_of(row) & KINDS.keys()):
        if backend in KINDS[name].backends:
            found.append((name, WORDS[KINDS[name].outcome_on(backend).outcome]))
    for name in sorted(names_of(row) & JOBS.keys()):
        if backend != TORCH or name not in NOT_ON_TORCH:
            again = JOBS[name].replay or JOBS[name].checkpoints.get("data_state_limit") == 0
            found.append((name, {"replayed"} if again else WORDS[EXACT]))
    return found


def is_tested(row: Row, backend: str) -> bool:
    """Whether a test of a row runs on a backend."""
    return any((file == ELSEWHERE) == (backend != TENSORFLOW) for file, _ in row.tests)


def mistakes(row: Row) -> list[str]:
    """Say what a row claims that its kinds do not prove."""
    found = []
    for backend, cell in zip(BACKENDS, row.cells, strict=True):
        expected = expectations(row, backend)
        jobs = names_of(row) & JOBS.keys()
        for name in names_of(row) & KINDS.keys():
            if expected and backend not in KINDS[name].backends and not jobs:
                found.append(f"{row.what}: {name!r} does not run on {backend}")
        found += [
            f"{row.what}: {cell} on {backend}, but of {name!r}, {' or '.join(sorted(words))}"
            for name, words in expected
            if cell not in words
        ]
        if not expected and (cell in UNPROVED) == is_tested(row, backend):
            proof = "a test" if is_tested(row, backend) else "nothing"
            found.append(f"{row.what}: {cell!r} on {backend}, where {proof} proves it")
    return found


def test_the_table_of_what_is_resumed_has_the_same_columns_everywhere() -> None:
    assert [table[0] for table in tables()] == [COLUMNS] * len(tables())
    assert len(rows()) > 50
    said = {cell for row in rows() for cell in row.cells}
    assert said <= UNPROVED.union(*WORDS.values())


def test_the_table_of_what_is_resumed_says_what_its_proof_expects() -> None:
    found = [mistake for row in rows() for mistake in mistakes(row)]
    assert not found, "\n".join(found)


def test_the_table_of_what_is_resumed_has_every_kind() -> None:
    assert {name for row in rows() for name in row.named} <= KNOWN
    for row in rows():
        for start in row.begun:
            assert any(name.startswith(start) for name in names_of(row) - row.named), start
    assert KNOWN - {name for row in rows() for name in names_of(row)} == set()


def test_every_test_that_the_documents_name_exists() -> None:
    named = {
        found
        for document in DOCUMENTS
        for found in re.findall(r"\btests/(\w+)\.py(?:::(\w+))?", document.read_text("utf-8"))
    }
    assert any(function for _, function in named)
    for file, function in named:
        tree = ast.parse((ROOT / "tests" / f"{file}.py").read_text("utf-8"))
        functions = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert not function or function in functions, f"tests/{file}.py::{function}"
