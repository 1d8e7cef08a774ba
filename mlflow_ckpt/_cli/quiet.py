"""Start Keras's backend without its start-up messages."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow_ckpt.errors import ModelError


def start_backend() -> None:
    """Import Keras and initialize its backend, without start-up messages.

    TensorFlow writes messages such as "could not find cuda drivers" to the process's standard
    error before any of its settings applies.

    Raises:
        ModelError: If the backend does not start.
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
    """Hold back what native code writes to standard error, and show it on an exception."""
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
