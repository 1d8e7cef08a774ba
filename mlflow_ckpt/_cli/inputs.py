"""What to predict on: arrays and tables, matched with what the model takes."""

from __future__ import annotations

import csv
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mlflow_ckpt.errors import InputMismatchError, InvalidArgumentError

if TYPE_CHECKING:
    import keras

Array = np.ndarray[Any, Any]
# What files that are not what their name says make their readers raise.
_UNREADABLE = (
    *(OSError, ValueError, EOFError, MemoryError, OverflowError, RuntimeError),
    *(NotImplementedError, csv.Error, zipfile.BadZipFile, zlib.error),
)


def read_inputs(path: Path, array: str | None = None) -> Array | dict[str, Array]:
    """Read what to predict on.

    Args:
        path: `.npy`: one array. `.npz`: the array called `array`, or the only one, or several to be
            matched with the model's inputs by name. `.csv`: a sample a line, numbers only, with or
            without a header.
        array: Name of an array of an `.npz` file.

    Returns:
        An array of shape (samples, ...), or several by name.

    Raises:
        InputMismatchError: If the file is missing or holds no such thing.
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
        told = str(error).rstrip(".") or type(error).__name__
        raise InputMismatchError(
            f"The input file {path} cannot be read as {path.suffix}: {told}."
        ) from error


def match_inputs(model: keras.Model, inputs: Array | dict[str, Array]) -> Any:
    """Check inputs against what the model takes, and give them as it takes them."""
    wanted = getattr(model, "inputs", None)
    if isinstance(inputs, dict):
        if not wanted or len(wanted) < 2:
            raise InputMismatchError(
                f"The input file holds {len(inputs)} arrays and the model takes one. "
                f"Choose one with --array: {', '.join(inputs)}"
            )
        by_key = _input_tensors(model)
        if set(by_key) - set(inputs):
            raise InputMismatchError(
                f"The model takes the inputs {', '.join(by_key)}. "
                f"Received: {', '.join(inputs)}. Name the arrays of the .npz file like them."
            )
        lengths = {len(inputs[key]) for key in by_key if inputs[key].ndim}
        if len(lengths) > 1:
            raise InputMismatchError(
                f"The inputs have different numbers of samples: {sorted(lengths)}."
            )
        checked = {
            key: _checked(inputs[key], tensor, f"the input {key!r}")
            for key, tensor in by_key.items()
        }
        return checked if isinstance(model.input, dict) else list(checked.values())
    if wanted and len(wanted) > 1:
        raise InputMismatchError(
            f"The model takes {len(wanted)} inputs ({', '.join(t.name for t in wanted)}) and the "
            "file holds one array. Give an .npz file with an array of each name."
        )
    return _checked(inputs, wanted[0] if wanted else None, "the input")


def _input_tensors(model: keras.Model) -> dict[str, Any]:
    """Return the model's symbolic inputs by the names that people call them."""
    if isinstance(model.input, dict):
        return dict(model.input)
    return {tensor.name: tensor for tensor in model.inputs}


def _checked(array: Array, wanted: Any, what: str) -> Array:
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
    shape = tuple(wanted.shape)
    if array.ndim == 2 and len(shape) > 2 and array.shape[1] == np.prod(shape[1:], dtype=object):
        # A table has one sample a line: give each its shape back.
        array = array.reshape((-1, *shape[1:]))
    fits = array.ndim == len(shape) and all(
        size is None or size == given
        for size, given in zip(shape[1:], array.shape[1:], strict=True)
    )
    if not fits:
        expected = ", ".join("any" if size is None else str(size) for size in shape[1:])
        hint = " Put a batch axis before it: x[None]." if array.ndim == len(shape) - 1 else ""
        raise InputMismatchError(
            f"Expected shape (samples, {expected}) for {what}. Received: {array.shape}.{hint}"
        )
    whole = str(wanted.dtype).startswith(("int", "uint"))
    if whole and not np.array_equal(array, np.trunc(array)):
        raise InputMismatchError(
            f"Expected whole numbers for {what}, which is of type {wanted.dtype}. "
            f"Received: numbers with fractions, of type {array.dtype}."
        )
    return array


def _read_npy(path: Path) -> Array:
    loaded = np.load(path, allow_pickle=False)
    if not isinstance(loaded, np.ndarray):
        raise ValueError("it holds no array")  # noqa: TRY004 - told as an unreadable file
    return loaded


def _read_npz(path: Path, name: str | None) -> Array | dict[str, Array]:
    loaded = np.load(path, allow_pickle=False)
    if isinstance(loaded, np.ndarray):
        raise ValueError("it is an .npy file under another name")  # noqa: TRY004
    with loaded as arrays:
        if name is not None and name not in arrays:
            raise ValueError(f"it has no array {name!r}, but {', '.join(arrays.files) or 'none'}")
        if name is not None:
            return np.asarray(arrays[name])
        if len(arrays.files) == 1:
            return np.asarray(arrays[arrays.files[0]])
        return {key: np.asarray(arrays[key]) for key in arrays.files}


def _read_csv(path: Path) -> Array:
    """Read a table of numbers; a first row without a single number is a header."""
    rows: list[list[float]] = []
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, strict=True)
        lines = ((reader.line_num, cells) for cells in reader if any(map(str.strip, cells)))
        for index, (line, cells) in enumerate(lines):
            if len(cells) == 1 and ";" in cells[0]:
                raise ValueError("its cells are separated by semicolons; expected commas")
            if index == 0 and all(cell.strip() and not _is_number(cell) for cell in cells):
                continue
            for column, cell in enumerate(cells, 1):
                if not _is_number(cell):
                    raise ValueError(
                        f"line {line}, column {column} holds {cell!r}, which is not a number"
                    )
            rows.append([float(cell) for cell in cells])
            if len(cells) != len(rows[0]):
                raise ValueError(f"line {line} has {len(cells)} cells, the first {len(rows[0])}")
    if not rows:
        raise ValueError("it holds no numbers")
    return np.array(rows, np.float32)


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
