"""Writes a laid-out file, and fingerprints its tensors in the same pass."""

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
    """Write a file sequentially.

    Each piece is written, hashed and summarized while it is in the processor's cache.

    Args:
        layout: The file.
        write: Writes the next bytes.
        arrays: The tensors that the file was laid out with.
        fingerprinters: Fingerprinters by the tensor's index in `arrays`.

    Returns:
        The fingerprints of the tensors that are contiguous in the file, by index.
    """
    fingerprinters = fingerprinters or {}
    fingerprints: dict[int, TensorFingerprint] = {}
    for segment in layout.segments():
        fingerprinter = None if segment.array is None else fingerprinters.get(segment.array)
        if segment.array is None or fingerprinter is None:
            write(segment.data.data)
            continue
        flat = arrays[segment.array].reshape(-1)
        for start in range(0, flat.size, PIECE):
            piece = flat[start : start + PIECE]
            write(piece.view(np.uint8).data)
            fingerprinter.update(piece)
        fingerprints[segment.array] = fingerprinter.result()
    return fingerprints
