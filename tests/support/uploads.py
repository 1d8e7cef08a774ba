"""Has something happen amid an upload."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mlflow_ckpt._tracking.store import RunStore


@contextmanager
def at_upload(
    name: str, happens: Callable[[RunStore], object], *, before: bool = False
) -> Iterator[None]:
    """Have something happen once, after a file of that name is uploaded, or before.

    Args:
        name: The file's name.
        happens: Called with the run.
        before: Whether it happens before.
    """
    upload = RunStore.upload
    happened: list[Path] = []

    def call(store: RunStore, file: Path, directory: str) -> None:
        is_now = file.name == name and not happened
        if is_now:
            happened.append(file)
        if is_now and before:
            happens(store)
        upload(store, file, directory)
        if is_now and not before:
            happens(store)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(RunStore, "upload", call)
        yield
    assert happened, f"{name} was not uploaded"
