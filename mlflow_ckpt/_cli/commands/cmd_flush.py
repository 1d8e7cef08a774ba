"""`mlflow-ckpt flush`. Never loads Keras or its backend."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from mlflow_ckpt._cli import humanize, options
from mlflow_ckpt.errors import (
    IntegrityError,
    MlflowCkptError,
    OutputError,
    RunNotFoundError,
    TrackingError,
    TrackingUnavailableError,
)

if TYPE_CHECKING:
    from mlflow_ckpt._tracking.download import Progress
    from mlflow_ckpt._tracking.spool.entries import Entry
    from mlflow_ckpt._tracking.spool.outcome import Outcome
    from mlflow_ckpt._tracking.spool.spool_directory import Spool
    from mlflow_ckpt._tracking.store import RunStore


@click.command("flush", short_help="Send the entries of the spool.")
@click.argument("run", required=False)
@click.option(
    "--tracking-uri",
    metavar="URI",
    help="Send to this server. Default: the one that training used.",
)
@options.show
def command(run: str | None, tracking_uri: str | None, show: options.Show) -> None:
    """Send the entries of this machine's spool, of RUN or of all runs.

    Safe to repeat, and to run while a training or another flush is sending.
    """
    from mlflow_ckpt._cli.progress import progress_bar

    with progress_bar("Uploading") as progress:
        flushed = _flush(run, tracking_uri, progress)
    show(flushed)
    flushed.raise_if_left()


@dataclass(frozen=True)
class Flushed:
    """The outcome of a flush.

    Attributes:
        run_id: The run whose entries were sent; None for all runs.
        results: The entries and their outcomes, in order.
    """

    run_id: str | None
    results: tuple[tuple[Entry, Outcome], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the results as plain values."""
        return {"entries": [_plain(entry, outcome) for entry, outcome in self.results]}

    def to_lines(self) -> list[str]:
        """Return the results as lines."""
        if not self.results:
            of_run = "" if self.run_id is None else f" of run {self.run_id}"
            return [f"The spool holds no entries{of_run}."]
        # Of a run that was deleted, each entry has the same line.
        return list(dict.fromkeys(_line(entry, outcome) for entry, outcome in self.results))

    def raise_if_left(self) -> None:
        """Raise unless every entry was sent.

        Raises:
            IntegrityError: If an entry is damaged, so that it can never be sent.
            TrackingError: If entries are left for other reasons.
        """
        errors = [outcome.error for _, outcome in self.results if outcome.error is not None]
        if not errors:
            return
        many = f"{len(errors)} of {len(self.results)} entries are still in the spool"
        damaged = [error for error in errors if isinstance(error, IntegrityError)]
        if damaged:
            raise IntegrityError(
                f"{many}, {len(damaged)} of them damaged. Damaged entries can never be sent: "
                "delete their directories."
            ) from damaged[0]
        raise TrackingError(
            f"{many}. Nothing is lost: run the same command again once the cause is gone."
        ) from errors[0]


def _plain(entry: Entry, outcome: Outcome) -> dict[str, Any]:
    """Return an outcome as plain values."""
    error = outcome.error
    return {
        "run_id": entry.run_id,
        "kind": entry.kind,
        "name": entry.name or None,
        "size": outcome.size,
        "error": None if error is None else str(error),
        "path": None if error is None else str(entry.path),
    }


def _line(entry: Entry, outcome: Outcome) -> str:
    what = f"{entry.label} of run {entry.run_id}"
    if outcome.error is None:
        size = f" ({humanize.size(outcome.size)})" if outcome.size else ""
        return f"Sent {what}{size}."
    if isinstance(outcome.error, RunNotFoundError):
        return f"Left all of run {entry.run_id} in {entry.path.parent}: {outcome.error}"
    return f"Left {what} in {entry.path}: {outcome.error}"


def _flush(run: str | None, tracking_uri: str | None, progress: Progress) -> Flushed:
    """Send the entries of this machine's spool.

    Args:
        run: A run id; None for all runs.
        tracking_uri: The server to send to; None for each entry's own, if the user named it.
        progress: Called with bytes done and total bytes.
    """
    from mlflow_ckpt._tracking.references import resolve
    from mlflow_ckpt._tracking.spool import servers
    from mlflow_ckpt._tracking.spool.outcome import Outcome
    from mlflow_ckpt._tracking.spool.spool_directory import Spool

    run_id = None if run is None else resolve(run, tracking_uri=tracking_uri).run_id
    spool = Spool.default()
    spool.sweep(run_id)
    entries = spool.entries(run_id)
    sizes = [entry.size for entry in entries]
    done = 0
    stores: dict[tuple[str, str], RunStore] = {}
    away: dict[str, TrackingUnavailableError] = {}
    deleted: dict[tuple[str, str], RunNotFoundError] = {}
    results = []
    for entry, size in zip(entries, sizes, strict=True):
        uri = tracking_uri or servers.address_of(entry.tracking_uri)
        before = done

        def advance(sent: int) -> None:
            nonlocal done
            done += sent
            progress(done, sum(sizes))

        if uri is None:
            results.append((entry, Outcome(entry=entry, size=size, error=_unnamed(entry))))
            continue
        error: MlflowCkptError | None = away.get(uri) or deleted.get((uri, entry.run_id))
        if error is None:
            error = _send(spool, entry, uri, stores, advance)
        if isinstance(error, TrackingUnavailableError):
            away[uri] = error
        if isinstance(error, RunNotFoundError):
            deleted[uri, entry.run_id] = error
        results.append((entry, Outcome(entry=entry, size=size, error=error)))
        done = before + size
    return Flushed(run_id, tuple(results))


def _unnamed(entry: Entry) -> TrackingError:
    return TrackingError(
        f"It is for the server {entry.tracking_uri}, which MLFLOW_TRACKING_URI does not name, and "
        "no training of this user did here. If you trust it: "
        f"mlflow-ckpt flush {entry.run_id} --tracking-uri {entry.tracking_uri}"
    )


def _send(
    spool: Spool,
    entry: Entry,
    uri: str,
    stores: dict[tuple[str, str], RunStore],
    advance: Callable[[int], None],
) -> MlflowCkptError | None:
    """Send one entry; return the error if it stays in the spool."""
    from mlflow_ckpt._tracking.spool import sending
    from mlflow_ckpt._tracking.store import RunStore

    try:
        store = stores.get((uri, entry.run_id)) or RunStore(entry.run_id, uri)
        stores[uri, entry.run_id] = store
        store.require_answer()
        sending.send_patiently(spool, entry, store, advance)
    except MlflowCkptError as error:
        return error
    except OSError as error:
        return OutputError(f"The spool cannot be read or written: {error}.")
    return None
