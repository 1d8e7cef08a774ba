"""Progress bars, on standard error and only if that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn


@contextmanager
def progress_bar(action: str = "Downloading") -> Iterator[Callable[[int, int], None]]:
    """Yield a function that draws a bar, given bytes done and total bytes."""
    console = Console(stderr=True)
    columns = TextColumn(action), BarColumn(), DownloadColumn(), TransferSpeedColumn()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        # The bar appears with the first bytes: a store on local disk is read in place, without it.
        task = progress.add_task(action, total=None, visible=False)
        yield lambda done, total: progress.update(task, completed=done, total=total, visible=True)
