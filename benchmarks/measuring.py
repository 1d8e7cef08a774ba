"""Runs a training with a callback, and measures the callback's overhead."""

from __future__ import annotations

import ctypes
import gc
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import mlflow

from benchmarks.destinations import Store
from benchmarks.errors import BenchmarkError
from benchmarks.models import Subject
from benchmarks.variants import Variant

_PROCESS = Path("/proc/self")
_SAMPLING_SECONDS = 0.005
_TRAIN_HOOKS = ("on_train_begin", "on_train_end")
_LOOP_HOOKS = (
    *("on_epoch_begin", "on_epoch_end", "on_batch_begin", "on_batch_end"),
    *("on_train_batch_begin", "on_train_batch_end"),
)


@dataclass(frozen=True)
class Sample:
    """The measurements of one training.

    Attributes:
        round: Number of the round; 0 for the warm-up.
        saves: Number of saved checkpoints, one per epoch.
        wall: Wall time of `fit` in seconds.
        cpu: Processor time of `fit` in seconds, of all threads and of child processes that ended.
        blocking: Seconds of the training thread in the callback's hooks for epochs and batches.
        begin: Seconds in its `on_train_begin`.
        end: Seconds in its `on_train_end`, which waits for saves in the background.
        resident_before: Bytes of resident memory before the training; None if not measured.
        resident_peak: Peak of resident memory during the training.
        resident_after: Resident memory after the callback was deleted.
        written: Bytes that this process passed to write calls; None if not measured.
        stored: Size of the files that the training saved, in bytes.
    """

    round: int
    saves: int
    wall: float
    cpu: float
    blocking: float
    begin: float
    end: float
    resident_before: int | None
    resident_peak: int | None
    resident_after: int | None
    written: int | None
    stored: int


class HookTimer:
    """Measures the time that the training thread spends in a callback's hooks.

    Only hooks that the callback overrides are wrapped, because Keras's loop differs if there is a
    batch hook.
    """

    def __init__(self, callback: keras.callbacks.Callback) -> None:
        self.seconds = dict.fromkeys((*_TRAIN_HOOKS, *_LOOP_HOOKS), 0.0)
        self._thread = threading.get_ident()
        self._inside = False
        for name in self.seconds:
            inherited = getattr(type(callback), name) is getattr(keras.callbacks.Callback, name)
            if name in vars(callback) or not inherited:
                setattr(callback, name, self._timed(name, getattr(callback, name)))

    def in_loop(self) -> float:
        """Return the seconds in the hooks for epochs and batches."""
        return sum(self.seconds[name] for name in _LOOP_HOOKS)

    def _timed(self, name: str, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            # Skip hooks called by other hooks or by background threads, which block nothing.
            if self._inside or threading.get_ident() != self._thread:
                return hook(*args, **kwargs)
            self._inside = True
            started = time.perf_counter()
            try:
                return hook(*args, **kwargs)
            finally:
                self.seconds[name] += time.perf_counter() - started
                self._inside = False

        return timed


def measure_fit(
    subject: Subject, variant: Variant, store: Store, *, epochs: int, number: int
) -> Sample:
    """Train in a new run, check that every epoch was saved, and delete the saved files.

    Args:
        subject: Model and data.
        variant: The way to save.
        store: The store to save to.
        epochs: Number of epochs to train.
        number: Number of the round.

    Raises:
        BenchmarkError: If an epoch was not saved when `fit` returned.
    """
    release_memory()
    resident_before = _status("VmRSS")
    with mlflow.start_run():
        callback = variant.make(store.files) if variant.make else keras.callbacks.Callback()
        timer = HookTimer(callback)
        written_before = _written()
        with peak_memory() as peak:
            cpu, started = _cpu(), time.perf_counter()
            subject.fit(epochs, [callback] if variant.make else [])
            wall, cpu = time.perf_counter() - started, _cpu() - cpu
        written = _written()
    files = store.saved()
    if variant.make is not None:
        _check_saves(variant, store, epochs)
    # The callback references the model, and the model's history the callback.
    del callback
    release_memory()
    sample = Sample(
        round=number,
        saves=epochs,
        wall=wall,
        cpu=cpu,
        blocking=timer.in_loop(),
        begin=timer.seconds["on_train_begin"],
        end=timer.seconds["on_train_end"],
        resident_before=resident_before,
        resident_peak=peak.bytes,
        resident_after=_status("VmRSS"),
        written=None if written is None or written_before is None else written - written_before,
        stored=sum(file.stat().st_size for file in files),
    )
    store.clear()
    return sample


def release_memory() -> None:
    """Collect garbage, and return the allocator's free memory to the system."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


@dataclass
class Peak:
    """Peak of resident memory in bytes; None if it cannot be measured."""

    bytes: int | None = None


@contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the peak of this process's resident memory, by the method of `memory_method`."""
    peak = Peak()
    method = memory_method()
    if method == "none":
        yield peak
    elif method == "VmHWM":
        _reset_high_water_mark()
        yield peak
        peak.bytes = _status("VmHWM")
    else:
        finished = threading.Event()
        sampler = threading.Thread(target=_sample_memory, args=(peak, finished), daemon=True)
        sampler.start()
        try:
            yield peak
        finally:
            finished.set()
            sampler.join()


def memory_method() -> str:
    """Return the method by which memory is measured.

    Returns:
        `"VmHWM"`: Linux's high-water mark, which is exact; `"sampled"`: sampled by a thread, if the
        mark cannot be reset; `"none"`: not measured, on other systems.
    """
    if _status("VmRSS") is None:
        return "none"
    try:
        _reset_high_water_mark()
    except OSError:
        return "sampled"
    return "VmHWM" if _status("VmHWM") is not None else "sampled"


def _reset_high_water_mark() -> None:
    (_PROCESS / "clear_refs").write_text("5")


def _sample_memory(peak: Peak, finished: threading.Event) -> None:
    while not finished.wait(_SAMPLING_SECONDS):
        peak.bytes = max(peak.bytes or 0, _status("VmRSS") or 0)


def _status(field: str) -> int | None:
    """Return a size from /proc/self/status in bytes; None if it is not available."""
    status = _PROCESS / "status"
    if not status.exists():
        return None
    for line in status.read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return int(value.split()[0]) * 1024
    return None


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _written() -> int | None:
    """Return the number of bytes that this process has passed to write calls."""
    try:
        lines = (_PROCESS / "io").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith("wchar:")), None)


def _check_saves(variant: Variant, store: Store, expected: int) -> None:
    roots = (store.artifacts, store.files)
    complete = sum(len(list(root.glob(variant.proof))) for root in roots)
    if complete != expected:
        raise BenchmarkError(
            f"{variant.title} has saved {complete} of {expected} checkpoints when training ended, "
            "so its numbers would mean nothing."
        )
