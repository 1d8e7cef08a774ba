"""Sends the entries of the spool in a background thread, with retries."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tenacity import RetryCallState, Retrying, retry_if_exception_type, retry_if_result, wait_fixed

from mlflow_ckpt._format.manifest import Manifest
from mlflow_ckpt._tracking import claims
from mlflow_ckpt._tracking.background import BackgroundThread
from mlflow_ckpt._tracking.claims import ClaimUndecidedError
from mlflow_ckpt._tracking.quiet import without_lines_of_retries
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.entries import Entry
from mlflow_ckpt._tracking.spool.outcome import Outcome
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt.errors import (
    RequestRefusedError,
    RunNotFoundError,
    TrackingError,
    TrackingUnavailableError,
)

_FIRST_WAIT_SECONDS = 0.5
_LONGEST_WAIT_SECONDS = 30.0
# Bytes per second. A server that accepts less counts as unavailable.
_SLOWEST = 1_000_000
_POLL_SECONDS = 0.05
_PROBE_EVERY_SECONDS = 2.0
_SHORTEST_PROBE_SECONDS = 0.1
# Not the `random` module, which tenacity uses: training may use it as well, and its result must not
# depend on the number of retries.
_random = secrets.SystemRandom()


class Uploader(BackgroundThread):
    """Sends the entries of one run in order, and retries while the server is unavailable.

    Args:
        spool: The spool that holds the entries.
        store: The run.
        after: Called on the uploader's thread after a checkpoint was uploaded, for example to
            remove old ones.
    """

    def __init__(
        self, spool: Spool, store: RunStore, *, after: Callable[[Manifest], None] | None = None
    ) -> None:
        super().__init__("mlflow_ckpt uploader")
        self._spool = spool
        self._store = store
        self._after = after
        self._pending: list[Entry] = []
        self._outcomes: list[Outcome] = []
        self._failure: Exception | None = None
        self._undecided: set[Path] = set()  # entries whose name another process may be saving
        self._reason: Exception | None = None
        self._hurried = self._has_given_up = self._run_is_deleted = False
        self._last_progress = time.monotonic()
        self._current_size = 0

    def add(self, entry: Entry) -> None:
        """Queue an entry unless it is queued already. Returns immediately."""
        with self._changed:
            if self._run_is_deleted:
                return
            if entry not in self._pending:
                self._pending.append(entry)
            self._resume()  # if Python is shutting down, `drain` sends the entries

    def close(self) -> None:
        """End the thread once its work is done, or an attempt fails. Returns immediately.

        Entries that are left stay in the spool, for the next training of the run or a flush.
        """
        self._run_is_deleted = False
        super().close()

    def _resume(self) -> bool:
        """Wake or start the thread; return False if Python is shutting down."""
        self._has_given_up = False
        return self._wake()

    def outcomes(self) -> list[Outcome]:
        """Return the outcomes since the last call."""
        with self._changed:
            outcomes, self._outcomes = self._outcomes, []
        return outcomes

    @property
    def failure(self) -> Exception | None:
        """Error of the last attempt; None if it succeeded or nothing is pending."""
        return self._reason if self._pending else None

    def pending(self) -> list[Entry]:
        """Return the entries that are still to be sent."""
        with self._changed:
            return list(self._pending)

    def drain(
        self,
        *,
        patience: float,
        limit: float | None = None,
        unless: Callable[[], bool] = lambda: False,
    ) -> bool:
        """Wait until all entries have been sent; return whether they have.

        Args:
            patience: Seconds to wait for a server that does not answer, or makes no progress.
            limit: Total seconds to wait; None to wait while there is progress.
            unless: Polled while waiting; stop waiting once it returns True.
        """
        with self._changed:
            started = not self._pending or self._resume()
        if not started:
            with suppress(TrackingError):
                self._send_pending()
            return not self.pending()
        self._last_progress = time.monotonic()
        deadlines = _Deadlines(self._store, patience, limit, unless)
        polling = Retrying(
            retry=retry_if_result(lambda drained: drained is None),
            wait=wait_fixed(_POLL_SECONDS),
            sleep=self._wait_until_drained,
        )
        return bool(polling(lambda: self._is_drained(deadlines)))

    def _is_drained(self, deadlines: _Deadlines) -> bool | None:
        """Return whether all entries have been sent; None to keep waiting."""
        with self._changed:
            self._hurried = True
            self._changed.notify_all()
            if not self._pending:
                return True
        expected = self._current_size / _SLOWEST
        passed = deadlines.passed(
            self._last_progress + expected, self._failure, undecided=bool(self._undecided)
        )
        return False if passed else None

    def _wait_until_drained(self, seconds: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._pending, seconds)

    def _has_work(self) -> bool:
        return bool(self._pending) and not self._has_given_up

    def _work(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type(TrackingError), wait=_backoff, sleep=self._pause
        )
        with suppress(_GivenUpError), without_lines_of_retries():
            retrying(self._send_pending)

    def _pause(self, seconds: float) -> None:
        """Wait before the next attempt, but only briefly while `drain` is waiting.

        Raises:
            _GivenUpError: If the training has ended: it does not go on in the background, where
                each attempt may add a line to the log of whatever the process does next.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._hurried or self._closed, seconds)
            if self._closed:
                self._has_given_up = True
                raise _GivenUpError
        if self._hurried:
            time.sleep(min(seconds, _FIRST_WAIT_SECONDS))
            self._hurried = False

    def _send_pending(self) -> None:
        """Try once to send all entries.

        Raises:
            TrackingError: If entries remain that the next attempt may send.
        """
        failure: TrackingError | None = None
        for entry in self.pending():
            try:
                self._send(entry)
            except RunNotFoundError as error:
                self._settle_all(error)
                return
            except RequestRefusedError as error:
                self._settle(entry, Outcome(entry=entry, error=error))
            except TrackingError as error:
                self._record_failure(Outcome(entry=entry, error=error, final=False))
                failure = error
                if isinstance(error, TrackingUnavailableError):
                    break
            except Exception as error:  # noqa: BLE001 - shown on the training thread, see `outcomes`
                self._settle(entry, Outcome(entry=entry, error=error))
            else:
                self._settle(entry, Outcome(entry=entry))
        if failure is not None:
            raise failure

    def _send(self, entry: Entry) -> None:
        self._current_size = entry.size
        self._store.require_answer()
        manifest = sending.send(self._spool, entry, self._store, self._on_uploaded)
        self._failure = None
        self._on_uploaded(0)
        if manifest is not None and self._after is not None:
            self._after(manifest)

    def _on_uploaded(self, _: int) -> None:
        self._last_progress = time.monotonic()

    def _record_failure(self, outcome: Outcome) -> None:
        with self._changed:
            # One outcome per outage, not per attempt.
            if self._failure is None:
                self._outcomes.append(outcome)
            self._failure = self._reason = outcome.error
            if outcome.entry is not None and isinstance(outcome.error, ClaimUndecidedError):
                self._undecided.add(outcome.entry.path)

    def _settle_all(self, error: RunNotFoundError) -> None:
        """Leave all entries in the spool, with one message, because the run was deleted."""
        with self._changed:
            self._run_is_deleted = True
            self._pending.clear()
            self._outcomes.append(Outcome(error=error))
            self._changed.notify_all()

    def _settle(self, entry: Entry, outcome: Outcome) -> None:
        with self._changed:
            self._pending.remove(entry)
            self._undecided.discard(entry.path)
            self._outcomes.append(outcome)
            self._changed.notify_all()


class _GivenUpError(Exception):
    """Ends the attempts to send what is pending."""


class _Deadlines:
    """Decides when to stop waiting for uploads. Arguments as in `Uploader.drain`."""

    def __init__(
        self, store: RunStore, patience: float, limit: float | None, unless: Callable[[], bool]
    ) -> None:
        self._store = store
        self._patience = patience
        self._probe_seconds = min(max(patience, _SHORTEST_PROBE_SECONDS), _PROBE_EVERY_SECONDS)
        self._unless = unless
        self._started = self._next_probe = time.monotonic()
        self._end = math.inf if limit is None else self._started + limit
        self._unavailable_since: float | None = None

    def passed(self, last_progress: float, failure: Exception | None, *, undecided: bool) -> bool:
        """Whether to stop waiting.

        Args:
            last_progress: Time of the last, or next expected, progress in monotonic seconds.
            failure: Why the last attempt to send an entry failed; None if it did not.
            undecided: Whether it is not known yet if another process is saving what is left.
        """
        now = time.monotonic()
        if self._unless() or now > self._end:
            return True
        if now >= self._next_probe:
            answers = self._store.answers(self._probe_seconds)
            failed = failure is not None and not isinstance(failure, ClaimUndecidedError)
            unavailable = failed or not answers
            self._unavailable_since = (self._unavailable_since or now) if unavailable else None
            self._next_probe = time.monotonic() + _PROBE_EVERY_SECONDS
        waiting_since = min(last_progress, self._unavailable_since or math.inf)
        # Whether another process's claim holds is decided soon, and not by this server.
        is_waiting = undecided and self._unavailable_since is None
        longer = claims.DEAD_SECONDS + claims.BEAT_SECONDS if is_waiting else 0.0
        return now - waiting_since > self._patience + longer


def _backoff(state: RetryCallState) -> float:
    """Return the seconds to wait: exponential backoff with jitter."""
    longest = _FIRST_WAIT_SECONDS * 2.0 ** min(state.attempt_number, 10)
    return _random.uniform(0.0, min(longest, _LONGEST_WAIT_SECONDS))
