"""Progress bars, on standard error and only where a person looks at it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


@contextmanager
def download_bar() -> Iterator[Callable[[int, int], None]]:
    """Give a function that takes bytes done and bytes in all, and draws them."""
    with _bar("Downloading") as update:
        yield update


@contextmanager
def upload_bar() -> Iterator[Callable[[int, int], None]]:
    """Give the same for uploads."""
    with _bar("Uploading") as update:
        yield update


@contextmanager
def _bar(doing: str) -> Iterator[Callable[[int, int], None]]:
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        # The bar appears with the first bytes: a store on local disk is read in place, without it.
        task = progress.add_task(doing, total=None, visible=False)

        def update(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total, visible=True)

        yield update
