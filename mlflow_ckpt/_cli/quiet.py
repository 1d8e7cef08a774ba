"""Starts Keras's backend without its start-up messages."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_ckpt.errors import ModelError


def start_backend() -> None:
    """Import Keras and let its backend find its devices, quietly.

    TensorFlow writes "could not find cuda drivers" and the like straight to the process's standard
    error, before any setting of its own could stop it. They are not about the user's command.
    """
    try:
        with without_native_messages():
            import keras

            keras.ops.zeros(())
    except (ImportError, ValueError) as error:
        backend = os.environ.get("KERAS_BACKEND", "tensorflow")
        raise ModelError(
            f"Keras cannot start its backend {backend!r}: {error}. Install it, or name another: "
            "KERAS_BACKEND=tensorflow, jax or torch."
        ) from error


@contextmanager
def without_native_messages() -> Iterator[None]:
    """Hold back what native code writes to standard error, and show it if an exception comes."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        before = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(before, held.read())
            raise
        finally:
            os.dup2(before, 2)
            os.close(before)
