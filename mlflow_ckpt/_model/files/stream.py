"""Copies a laid-out file to its goal, and fingerprints the tensors in it on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mlflow_ckpt._format.fingerprint import PIECE, TensorFingerprint, TensorFingerprinter
from mlflow_ckpt._model.files.hdf5 import LaidOutFile


def emit(
    layout: LaidOutFile,
    write: Callable[[memoryview], Any],
    arrays: Sequence[np.ndarray[Any, Any]] = (),
    fingerprinters: Mapping[int, TensorFingerprinter] | None = None,
) -> dict[int, TensorFingerprint]:
    """Write a file from front to back, piece by piece.

    Each piece is written, hashed and summed up while it is in the processor's cache.

    Args:
        layout: The file.
        write: Takes the next bytes.
        arrays: The tensors that the file was laid out with.
        fingerprinters: Those of tensors, by their position in `arrays`.

    Returns:
        The fingerprints of those tensors that lie in the file in one piece, by position.
    """
    wanted = fingerprinters or {}
    done: dict[int, TensorFingerprint] = {}
    for segment in layout.segments():
        fingerprinter = None if segment.array is None else wanted.get(segment.array)
        if segment.array is None or fingerprinter is None:
            write(segment.data.data)
            continue
        flat = arrays[segment.array].reshape(-1)
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            write(piece.view(np.uint8).data)
            fingerprinter.update(piece)
        done[segment.array] = fingerprinter.result()
    return done
