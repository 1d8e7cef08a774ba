"""Trains or resumes kinds, many in one process.

    python -m tests.support.kinds.program train DIRECTORY [NAME...]
    python -m tests.support.kinds.program resume DIRECTORY [NAME...]

The first trains each kind without a stop and, in a run, up to its stop. The second goes on with the
runs, in a new process, and writes what came of each into `outcomes.json` of the directory.
"""

from __future__ import annotations

import gc
import json
import pickle
import re
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np

import mlflow_ckpt
from mlflow_ckpt._shown import warn
from mlflow_ckpt.errors import MlflowCkptError
from tests.support.kinds import KINDS
from tests.support.kinds.kind import (
    CRASH,
    EXACT,
    NAMED,
    REFUSED,
    SILENT,
    Callbacks,
    Expected,
    Kind,
    Stopped,
)  # fmt: skip
from tests.support.kinds.state import differences, state_of

# A new process begins with other random numbers.
FIRST_SEED, LATER_SEED = 11, 99


def set_up(backend: str) -> None:
    """Make a backend reproducible, and cheap."""
    if backend == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    elif backend == "jax":
        import jax

        jax.config.update("jax_disable_most_optimizations", True)


def fresh(seed: int) -> None:
    """Leave nothing to a kind of what the one before it did."""
    keras.utils.clear_session()
    keras.config.set_dtype_policy("float32")
    keras.config.set_floatx("float32")
    keras.utils.set_random_seed(seed)
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(seed)  # which Keras does on PyTorch only
    warn.warn_once.cache_clear()
    while mlflow.active_run() is not None:
        mlflow.end_run()


@contextmanager
def messages() -> Iterator[list[str]]:
    """Collect the warnings of the package, and hide those of others."""
    said: list[str] = []

    def show(message: Any, *_: Any, **__: Any) -> None:
        frame: Any = sys._getframe(1)
        while frame is not None:
            if frame.f_globals.get("__name__") == warn.__name__:
                said.append(str(message))
                return
            frame = frame.f_back

    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.showwarning = show
        yield said


# Says nothing of the training: the one before is still sending what it saved.
_SENDING = "is being sent already"


class _Begins(keras.callbacks.Callback):
    """Tells a data set which epoch begins, as `MlflowCheckpoint` does."""

    def __init__(self, data: mlflow_ckpt.EpochDataset) -> None:
        super().__init__()
        self._data = data

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._data.begin(epoch)


def train(
    kind: Kind, model: keras.Model, callbacks: Callbacks, *, alone: bool = False, **settings: Any
) -> dict[str, Any]:
    """Train, with or without the package, and return everything that the training came to."""
    settings = {"epochs": kind.epochs, **kind.data(), **settings}
    if alone and isinstance(settings["x"], mlflow_ckpt.EpochDataset):
        callbacks = [_Begins(settings["x"]), *callbacks]
        settings["shuffle"] = False
    history = model.fit(verbose=0, callbacks=callbacks, **settings)
    state = state_of(model)
    for key, value in kind.after(model, callbacks).items():
        state[f"after: {key}"] = np.asarray(value)
    return {"state": state, "epochs": _by_epoch(history)}


def _by_epoch(history: keras.callbacks.History) -> dict[int, dict[str, Any]]:
    """Return the metrics of each epoch; one that is not reported in each is compared at its end."""
    length = len(history.epoch)
    return {
        epoch: {
            name: np.asarray(curve[i - length])
            for name, curve in history.history.items()
            if i >= length - len(curve)
        }
        for i, epoch in enumerate(history.epoch)
    }


def _saver(kind: Kind) -> mlflow_ckpt.MlflowCheckpoint:
    return mlflow_ckpt.MlflowCheckpoint(**{"monitor": "loss", **kind.checkpoints})


def begin(kind: Kind) -> dict[str, Any]:
    """Train a kind without a stop, and up to its stop in a run."""
    fresh(FIRST_SEED)
    if kind.saves_whole:
        mlflow.start_run()
        keras.utils.set_random_seed(FIRST_SEED)
    model = kind.build()
    kind.before(model)
    savers = [_saver(kind)] if kind.saves_whole else []
    whole = train(kind, model, [*savers, *kind.callbacks()], alone=not savers)
    record: dict[str, Any] = {"whole": whole}
    del model
    fresh(FIRST_SEED)
    with messages() as record["said at save"], mlflow.start_run() as run:
        record["run"] = run.info.run_id
        # MLflow draws the run's name from Python's generator.
        keras.utils.set_random_seed(FIRST_SEED)
        model = kind.build()
        kind.before(model)
        checkpoints = _saver(kind)
        callbacks = [checkpoints, *kind.callbacks(), *kind.stop.callbacks()]
        try:
            with checkpoints:
                train(kind, model, callbacks, epochs=kind.stop.epochs)
        except (Stopped, SystemExit):
            pass
        except MlflowCkptError as error:
            record["refused"] = f"{type(error).__name__}: {error}"
    return record


def go_on(kind: Kind, begun: dict[str, Any], expected: Expected) -> dict[str, Any]:
    """Resume a kind, and return what came of it."""
    record: dict[str, Any] = {"said at save": begun["said at save"]}
    if "refused" in begun:
        return {**record, "outcome": REFUSED, "error": begun["refused"], "said": []}
    fresh(LATER_SEED)
    with messages() as record["said"]:
        try:
            point = kind.go_on(begun["run"], kind, kind.callbacks())
            record["from"] = f"{point.initial_epoch}+{point.initial_batch}"
            later = {"initial_epoch": point.initial_epoch, **kind.later}
            now = train(kind, point.model, point.callbacks, **later)
        except MlflowCkptError as error:
            return {**record, "outcome": REFUSED, "error": f"{type(error).__name__}: {error}"}
    whole = begun["whole"]
    first = {**whole["state"], **_flat(whole["epochs"], now["epochs"])}
    second = {**now["state"], **_flat(now["epochs"], now["epochs"])}
    record["differs"] = differences(first, second)
    silent = SILENT if record["differs"] else EXACT
    return {**record, "outcome": NAMED if _said(record, expected) else silent}


def _said(record: dict[str, Any], expected: Expected) -> list[str]:
    """Return what was said of a difference."""
    texts = [text for text in (*record["said at save"], *record["said"]) if _SENDING not in text]
    if expected.outcome == EXACT and expected.text:
        return [text for text in texts if not re.search(expected.text, text)]
    return texts


def _flat(epochs: dict[int, dict[str, Any]], wanted: dict[int, Any]) -> dict[str, Any]:
    if not wanted:
        return {"epochs": "none"}
    return {
        f"epoch {number + 1}: {name}": value
        for number, logs in epochs.items()
        if number in wanted
        for name, value in logs.items()
    }


def is_expected(record: dict[str, Any], expected: Expected) -> bool:
    """Whether what came of a kind is what must come of it."""
    if record["outcome"] != expected.outcome:
        return False
    texts = list(record["said at save"])
    if not expected.at_save:
        texts += [*record["said"], record.get("error", "")]
    return expected.outcome == EXACT or any(re.search(expected.text, text) for text in texts)


def _attempt(function: Any, *arguments: Any) -> dict[str, Any]:
    try:
        return dict(function(*arguments))
    except Exception as error:  # noqa: BLE001 - reported as what came of the kind
        trace = traceback.format_exc()
        return {
            "outcome": CRASH, "error": f"{type(error).__name__}: {error}", "trace": trace[-3000:],
            "said": [], "said at save": [],
        }  # fmt: skip


def main(what: str, arguments: list[str]) -> None:
    """Train or resume kinds; the arguments are those of the program, without the first."""
    directory, names = Path(arguments[0]), arguments[1:]
    aloud = "-v" in names
    names = [name for name in names if name != "-v"]
    backend = keras.config.backend()
    set_up(backend)
    chosen = [
        name for name, kind in KINDS.items()
        if backend in kind.backends and (not names or name in names)
    ]  # fmt: skip
    outcomes: dict[str, Any] = {}
    # The other way round, so that no kind comes after the same one again.
    for name in chosen if what == "train" else reversed(chosen):
        path = directory / f"{re.sub(r'[^a-z0-9]+', '_', name.lower())}.pickle"
        began = time.process_time()
        if what == "train":
            path.write_bytes(pickle.dumps(_attempt(begin, KINDS[name])))
        else:
            begun = pickle.loads(path.read_bytes())
            crashed = begun.get("outcome") == CRASH
            expected = KINDS[name].outcome_on(backend)
            record = begun if crashed else _attempt(go_on, KINDS[name], begun, expected)
            outcomes[name] = {
                **record,
                "expected": expected.outcome,
                "text": expected.text,
                "as expected": is_expected(record, expected),
            }
        if aloud:
            print(f"{time.process_time() - began:6.2f} {name}", flush=True)  # noqa: T201
        gc.collect()
        gc.freeze()  # `clear_session` collects again: 1 ms instead of 300
    if what == "resume":
        ordered = {name: outcomes[name] for name in chosen}
        (directory / "outcomes.json").write_text(json.dumps(ordered, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
