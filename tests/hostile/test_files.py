"""Hostile files: refused in one sentence, or harmless, by every entry point that reads them."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest

from devtools.stores import Store
from tests.hostile import corpus
from tests.hostile.harness import HOLE, pairs_of, table, try_all
from tests.hostile.keras_cases import KNOWN

# Each n-th input with each entry point, in the default run.
_EVERY = 41
# For several workers.
_PARTS = 6
# Parts of names, such as "a link|.npz": only such inputs are tried.
_ONLY = os.environ.get("HOSTILE", "").split("|")


def _try(pairs: list[tuple[str, str]], store: Store, directory: Path) -> None:
    chosen = [pair for pair in pairs if any(part in " on ".join(pair) for part in _ONLY)]
    outcomes = try_all(corpus.__name__, chosen, store, directory)
    text = table(outcomes)
    sys.stdout.write(f"{text}\n")
    holes = [outcome for outcome in outcomes if outcome.verdict == HOLE]
    assert not holes, text


def test_a_sample_of_the_corpus(sqlite_store: Store, tmp_path: Path) -> None:
    _try(pairs_of(corpus.CASES)[::_EVERY], sqlite_store, tmp_path)


@pytest.mark.long
@pytest.mark.parametrize("part", range(_PARTS))
def test_the_whole_corpus(part: int, sqlite_store: Store, tmp_path: Path) -> None:
    _try(pairs_of(corpus.CASES)[part::_PARTS], sqlite_store, tmp_path)


def test_each_input_has_a_name_of_its_own() -> None:
    names = [case.name for case in corpus.CASES]
    assert len(names) == len(set(names)) >= 150


def test_each_vulnerability_that_was_published_is_in_the_corpus() -> None:
    names = [case.name for case in corpus.CASES]
    for vulnerability, beginnings in KNOWN.items():
        for beginning in beginnings:
            assert any(name.startswith(beginning) for name in names), vulnerability
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text("utf-8")
    assert re.findall(r"^\| (CVE-\S+) \|", text, re.MULTILINE) == list(KNOWN)
