"""Inputs of `predict`: read from files, and matched with the inputs of a model."""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_ckpt._format.untrusted.numpy_file import MAGIC, load_array, load_arrays, names_in
from mlflow_ckpt.errors import InputMismatchError, InvalidArgumentError

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]
# Errors that the readers raise for files whose content does not match their suffix.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, RuntimeError),
    *(NotImplementedError, csv.Error, zipfile.BadZipFile, zlib.error),
)


def read_inputs(path: Path, array: str | None = None) -> Array | dict[str, Array]:
    """Read the inputs of a model.

    Args:
        path: `.npy`: one array. `.npz`: the array called `array`, or the only one, or several to be
            matched with the model's inputs by name. `.csv`: one sample per line, numbers only, with
            or without a header.
        array: Name of an array of an `.npz` file.

    Returns:
        An array of shape (samples, ...), or several by name.

    Raises:
        InputMismatchError: If the file is missing or cannot be read.
        InvalidArgumentError: If `array` is given for another type of file.
    """
    try:
        exists = path.is_file()
    except OSError as error:
        raise InputMismatchError(f"The input file {path} cannot be read: {error}.") from error
    if not exists:
        raise InputMismatchError(f"There is no input file {path}.")
    readers = {".npy": _read_npy, ".npz": lambda p: _read_npz(p, array), ".csv": _read_csv}
    if path.suffix not in readers:
        raise InputMismatchError(
            f"Expected an input file of type .npy, .npz or .csv. Received: {path}"
        )
    if array is not None and path.suffix != ".npz":
        raise InvalidArgumentError(f"--array names an array of an .npz file. Received: {path}")
    try:
        return readers[path.suffix](path)
    except _UNREADABLE as error:
        reason = str(error).rstrip(".") or type(error).__name__
        raise InputMismatchError(
            f"The input file {path} cannot be read as {path.suffix}: {reason}."
        ) from error


def match_inputs(model: keras.Model, inputs: Array | dict[str, Array]) -> Any:
    """Return inputs in the structure that a model expects.

    Raises:
        InputMismatchError: If names, shapes or types do not match the model's inputs.
    """
    wanted = getattr(model, "inputs", None) or []
    if isinstance(inputs, dict):
        if len(wanted) < 2:
            raise InputMismatchError(
                f"The input file holds {len(inputs)} arrays and the model takes one. "
                f"Choose one with --array: {', '.join(inputs)}"
            )
        return _match_by_name(model, inputs)
    if len(wanted) > 1:
        raise InputMismatchError(
            f"The model takes {len(wanted)} inputs ({', '.join(t.name for t in wanted)}) and the "
            "file holds one array. Pass an .npz file with one array per name."
        )
    return _match(inputs, wanted[0] if wanted else None, "the input")


def _match_by_name(model: keras.Model, arrays: dict[str, Array]) -> Any:
    takes_dict = isinstance(model.input, dict)
    tensors = dict(model.input) if takes_dict else {t.name: t for t in model.inputs}
    if not tensors.keys() <= arrays.keys():
        raise InputMismatchError(
            f"The model takes the inputs {', '.join(tensors)}. "
            f"Received: {', '.join(arrays)}. Rename the arrays of the .npz file to match."
        )
    lengths = {len(arrays[name]) for name in tensors if arrays[name].ndim}
    if len(lengths) > 1:
        raise InputMismatchError(
            f"The inputs have different numbers of samples: {sorted(lengths)}."
        )
    matched = {
        name: _match(arrays[name], tensor, f"the input {name!r}")
        for name, tensor in tensors.items()
    }
    return matched if takes_dict else list(matched.values())


def _match(array: Array, wanted: Any, what: str) -> Array:
    """Check and reshape an array for a symbolic input; None accepts any shape."""
    if array.dtype.kind not in "biuf":
        raise InputMismatchError(
            f"Expected numbers for {what}. Received: an array of type {array.dtype}."
        )
    if array.ndim == 0 or len(array) == 0:
        raise InputMismatchError(
            f"Expected at least one sample for {what}. Received: shape {array.shape}."
        )
    if wanted is None:
        return array
    array = _unflatten(array, wanted.shape)
    _require_shape(array, wanted.shape, what)
    whole = str(wanted.dtype).startswith(("int", "uint"))
    if whole and not np.array_equal(array, np.trunc(array)):
        raise InputMismatchError(
            f"Expected whole numbers for {what}, which is of type {wanted.dtype}. "
            f"Received: numbers with fractions, of type {array.dtype}."
        )
    return array


def _unflatten(array: Array, shape: tuple[int | None, ...]) -> Array:
    """Reshape a table with one sample per row to the shape (samples, ...) of a model's input."""
    sizes = [size for size in shape[1:] if size is not None]
    is_table = array.ndim == 2 < len(shape) == len(sizes) + 1
    return array.reshape((-1, *sizes)) if is_table and array.shape[1] == math.prod(sizes) else array


def _require_shape(array: Array, shape: tuple[int | None, ...], what: str) -> None:
    """Raise unless an array has the given shape, in which None matches any size."""
    if array.ndim == len(shape) and all(
        size in (None, given) for size, given in zip(shape[1:], array.shape[1:], strict=True)
    ):
        return
    expected = ", ".join("any" if size is None else str(size) for size in shape[1:])
    hint = " Add a batch axis: x[None]." if array.ndim == len(shape) - 1 else ""
    raise InputMismatchError(
        f"Expected shape (samples, {expected}) for {what}. Received: {array.shape}.{hint}"
    )


def _read_npy(path: Path) -> Array:
    if zipfile.is_zipfile(path):
        raise ValueError("it holds no array")
    return load_array(path, follow=True)


def _read_npz(path: Path, name: str | None) -> Array | dict[str, Array]:
    with path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            raise ValueError("it is an .npy file under another name")
    names = names_in(path, follow=True)
    if name is not None and name not in names:
        raise ValueError(f"it has no array {name!r}, but {', '.join(names) or 'none'}")
    arrays = load_arrays(path, None if name is None else [name], follow=True)
    return next(iter(arrays.values())) if len(arrays) == 1 else arrays


def _read_csv(path: Path) -> Array:
    """Read a table of numbers; a first row without a single number is a header."""
    rows: list[list[float]] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        lines = (cells for cells in reader if any(map(str.strip, cells)))
        for index, cells in enumerate(lines):
            if len(cells) == 1 and ";" in cells[0]:
                raise ValueError("its cells are separated by semicolons; expected commas")
            if index == 0 and all(map(_is_title, cells)):
                continue
            rows.append(_numbers(cells, reader.line_num))
            if len(cells) != len(rows[0]):
                raise ValueError(
                    f"line {reader.line_num} has {len(cells)} cells, not {len(rows[0])}"
                )
    if not rows:
        raise ValueError("it holds no numbers")
    return np.array(rows, np.float32)


def _is_title(cell: str) -> bool:
    return bool(cell.strip()) and _number(cell) is None


def _numbers(cells: list[str], line: int) -> list[float]:
    numbers = []
    for column, cell in enumerate(cells, 1):
        number = _number(cell)
        if number is None:
            raise ValueError(f"line {line}, column {column} holds {cell!r}, which is not a number")
        numbers.append(number)
    return numbers


def _number(cell: str) -> float | None:
    try:
        return float(cell)
    except ValueError:
        return None
