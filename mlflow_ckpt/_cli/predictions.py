"""Predictions, and the files that they are written to."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TextIO

import numpy as np

from mlflow_ckpt._cli.options import to_json
from mlflow_ckpt._cli.output import new_file, refuse_special
from mlflow_ckpt._shown.escaping import escaped
from mlflow_ckpt.errors import InvalidArgumentError, OutputError

Array = np.ndarray[Any, Any]
# Tolerance for the sum of a row of probabilities, for float16 softmax over many classes.
_SUM_TOLERANCE = 1e-2
# How a formula begins, in the full-width forms too.
_FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")


@dataclass(frozen=True)
class Predictions:
    """Predictions of a model.

    Attributes:
        outputs: Arrays by output name, each of shape (samples, ...).
        class_names: Names of the classes; None if unknown.
    """

    outputs: Mapping[str, Array]
    class_names: Sequence[str] | None

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.outputs.values())))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the class and probability of each sample, or its values for other outputs."""
        single = len(self.outputs) == 1
        columns = {
            name: self._columns(array, "" if single else f"{name}_")
            for name, array in self.outputs.items()
        }
        for index in range(len(self)):
            row: dict[str, Any] = {"index": index}
            for describe in columns.values():
                row.update(describe(index))
            yield row

    def _columns(self, array: Array, prefix: str) -> Callable[[int], dict[str, Any]]:
        if is_probabilities(array):
            return lambda index: self._class(array[index], prefix)
        if array[0].size == 1:
            return lambda index: {f"{prefix}value": array[index].item()}
        return lambda index: {f"{prefix}values": array[index].tolist()}

    def _class(self, probabilities: Array, prefix: str) -> dict[str, Any]:
        if not np.isfinite(probabilities).all():
            return {f"{prefix}class": None, f"{prefix}probability": None}
        index = int(probabilities.argmax())
        names = self.class_names
        known = names is not None and len(names) == len(probabilities)
        return {
            f"{prefix}class": names[index] if names is not None and known else index,
            f"{prefix}probability": float(probabilities[index]),
        }


Writer = Callable[[Predictions], None]


def is_probabilities(array: Array) -> bool:
    """Whether each finite row is a distribution over classes, such as a softmax output."""
    if array.ndim != 2 or array.shape[1] < 2:
        return False
    # Ignore samples with NaN when deciding whether the rows are probabilities.
    finite = array[np.isfinite(array).all(axis=1)]
    return bool(
        len(finite)
        and (finite >= 0).all()
        and np.allclose(finite.sum(axis=1, dtype=np.float64), 1, atol=_SUM_TOLERANCE)
    )


def writer_for(output: Path | None, *, as_json: bool, overwrite: bool) -> Writer:
    """Return a function that writes predictions to a file or to standard output.

    Raises:
        OutputError: If the file exists, or its directory does not.
        InvalidArgumentError: If its type is unknown, or not the one that `as_json` asks for.
    """
    if output is None:
        write_rows = _write_json_lines if as_json else _write_csv
        return lambda predictions: write_rows(predictions, sys.stdout)
    writers: dict[str, Callable[[Predictions, BinaryIO], None]] = {
        ".csv": partial(_write_text, _write_csv),
        ".jsonl": partial(_write_text, _write_json_lines),
        ".npy": _write_npy,
        ".npz": _write_npz,
    }
    if output.suffix not in writers:
        raise InvalidArgumentError(
            f"Expected an output file of type {', '.join(writers)}. Received: {output}"
        )
    if as_json and output.suffix != ".jsonl":
        raise InvalidArgumentError(
            f"--json prints JSON lines; the file's type says otherwise. Received: {output}"
        )
    try:
        exists, parent = os.path.lexists(output), output.parent.is_dir()
    except OSError as error:
        raise OutputError(f"The output file {output} cannot be written: {error}.") from error
    if exists and not overwrite:
        raise OutputError(f"The output file {output} exists. Pass --overwrite to replace it.")
    if not parent:
        raise OutputError(f"There is no directory {output.parent} to write {output.name} to.")

    refuse_special(output)

    def write(predictions: Predictions) -> None:
        with new_file(output, overwrite=overwrite) as file:
            writers[output.suffix](predictions, file)

    return write


def _write_csv(predictions: Predictions, file: TextIO) -> None:
    writer = csv.writer(file, lineterminator="\n")
    for index, row in enumerate(predictions.rows()):
        if index == 0:
            writer.writerow(map(_cell, row))
        writer.writerow(map(_cell, row.values()))


def _cell(value: Any) -> Any:
    """Return a cell that is text to a terminal and to a spreadsheet, which computes formulas."""
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _write_json_lines(predictions: Predictions, file: TextIO) -> None:
    for row in predictions.rows():
        file.write(to_json(row) + "\n")


def _write_text(
    write: Callable[[Predictions, TextIO], None], predictions: Predictions, file: BinaryIO
) -> None:
    text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
    write(predictions, text)
    text.detach()


def _write_npy(predictions: Predictions, file: BinaryIO) -> None:
    if len(predictions.outputs) > 1:
        raise InvalidArgumentError(
            f"The model has {len(predictions.outputs)} outputs "
            f"({', '.join(predictions.outputs)}), and an .npy file holds one array. Use .npz."
        )
    np.save(file, next(iter(predictions.outputs.values())), allow_pickle=False)


def _write_npz(predictions: Predictions, file: BinaryIO) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in predictions.outputs.items():
            # Not np.savez: an output's name could clash with one of its arguments.
            with archive.open(f"{_member(name)}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _member(name: str) -> str:
    """Return the name of an output as one that leads nowhere when the archive is unpacked."""
    path = PurePosixPath(name)
    leads_out = path.is_absolute() or ".." in path.parts or "\\" in name
    return re.sub(r"[/\\]", "_", name) if leads_out else name
