"""Predicts on arrays and tables with the model of a checkpoint."""

from __future__ import annotations

import csv
import json
import os
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np

from mlflow_ckpt import loaders
from mlflow_ckpt.errors import InputMismatchError, InvalidArgumentError, OutputError

if TYPE_CHECKING:
    import keras

    from mlflow_ckpt.tracking.catalog import Progress

Array = np.ndarray[Any, Any]
# How far a row of probabilities may be from summing to one: float16 softmax over many classes.
_SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class Predictions:
    """What a model gave.

    Attributes:
        outputs: Arrays by output name, each of shape (samples, ...).
        class_names: Names of the classes; None if the checkpoint keeps none.
    """

    outputs: Mapping[str, Array]
    class_names: Sequence[str] | None

    def __len__(self) -> int:
        """Number of samples."""
        return len(next(iter(self.outputs.values())))

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield a mapping a sample: class and probability of a classifier, else plain values."""
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
        index = int(probabilities.argmax())
        names = self.class_names
        known = names is not None and len(names) == len(probabilities)
        return {
            f"{prefix}class": names[index] if names is not None and known else index,
            f"{prefix}probability": float(probabilities[index]),
        }


Writer = Callable[[Predictions], None]


def is_probabilities(array: Array) -> bool:
    """Whether each row is a distribution over classes, as a softmax output gives it.

    Args:
        array: Shape (samples, ...).
    """
    return bool(
        array.ndim == 2
        and array.shape[1] > 1
        and np.isfinite(array).all()
        and (array >= 0).all()
        and np.allclose(array.sum(axis=1, dtype=np.float64), 1, atol=_SUM_TOLERANCE)
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
    if not path.is_file():
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
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise InputMismatchError(
            f"The input file {path} cannot be read as {path.suffix}: {error}."
        ) from error


def load(
    run: str,
    checkpoint: str | int,
    *,
    monitor: str | None = None,
    mode: str | None = None,
    custom_objects: Mapping[str, Any] | None = None,
    tracking_uri: str | None = None,
    progress: Progress | None = None,
) -> tuple[keras.Model, Sequence[str] | None]:
    """Load a checkpoint's model for inference, and its class names if it keeps any."""
    found = loaders.get_checkpoint(
        run, checkpoint, monitor=monitor, mode=mode, tracking_uri=tracking_uri
    )
    model = loaders.load_model(
        found.run_id,
        found.name,
        form="split",
        custom_objects=custom_objects,
        tracking_uri=tracking_uri,
        progress=progress,
    )
    names = found.manifest.metadata.get("class_names")
    return model, [str(name) for name in names] if isinstance(names, list) else None


def predict(
    model: keras.Model,
    inputs: Array | dict[str, Array],
    class_names: Sequence[str] | None,
    batch_size: int,
) -> Predictions:
    """Predict in batches.

    Args:
        model: The model.
        inputs: Shape (samples, ...), or several arrays by the names of the model's inputs.
        class_names: Names of the classes; None if unknown.
        batch_size: Samples a batch.

    Raises:
        InputMismatchError: If shapes or types are not what the model takes.
    """
    given = _match_inputs(model, inputs)
    try:
        raw = model.predict(given, batch_size=batch_size, verbose=0)
    except (ValueError, TypeError) as error:
        # A subclassed model tells what it takes by raising only.
        raise InputMismatchError(
            f"The model {model.name!r} cannot take the input: {str(error).splitlines()[0]}"
        ) from error
    names = list(getattr(model, "output_names", None) or ["output"])
    if isinstance(raw, dict):
        outputs = {str(name): np.asarray(value) for name, value in raw.items()}
    elif isinstance(raw, (list, tuple)):
        outputs = {name: np.asarray(value) for name, value in zip(names, raw, strict=True)}
    else:
        outputs = {names[0]: np.asarray(raw)}
    return Predictions(outputs, class_names)


def writer_for(output: Path | None, *, as_json: bool, overwrite: bool) -> Writer:
    """Return what writes predictions to a file or to standard output.

    Raises:
        OutputError: If the file exists, or its directory does not.
        InvalidArgumentError: If its type is unknown.
    """
    if output is None:
        return (
            (lambda p: _write_json_lines(p, sys.stdout))
            if as_json
            else (lambda p: _write_csv(p, sys.stdout))
        )
    writers: dict[str, Callable[[Predictions, Path], None]] = {
        ".csv": lambda p, path: _write_text(p, path, _write_csv),
        ".jsonl": lambda p, path: _write_text(p, path, _write_json_lines),
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
    if output.exists() and not overwrite:
        raise OutputError(f"The output file {output} exists. Pass --overwrite to replace it.")
    if not output.parent.is_dir():
        raise OutputError(f"There is no directory {output.parent} to write {output.name} to.")

    def write(predictions: Predictions) -> None:
        with _in_place(output) as path:
            writers[output.suffix](predictions, path)

    return write


@contextmanager
def _in_place(output: Path) -> Iterator[Path]:
    """Give a temporary name beside the output; rename it if all went well."""
    temporary = output.with_name(f".{os.getpid()}.{output.name}")
    try:
        try:
            yield temporary
            temporary.replace(output)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise OutputError(f"The output file {output} cannot be written: {error}.") from error


def _match_inputs(model: keras.Model, inputs: Array | dict[str, Array]) -> Any:
    """Check inputs against what the model takes, and give them as it takes them."""
    wanted = getattr(model, "inputs", None)
    if isinstance(inputs, dict):
        if not wanted or len(wanted) < 2:
            raise InputMismatchError(
                f"The input file holds {len(inputs)} arrays and the model takes one. "
                f"Choose one with --array: {', '.join(inputs)}"
            )
        names = [tensor.name for tensor in wanted]
        if set(names) - set(inputs):
            raise InputMismatchError(
                f"The model takes the inputs {', '.join(names)}. "
                f"Received: {', '.join(inputs)}. Name the arrays of the .npz file like them."
            )
        lengths = {len(inputs[name]) for name in names if inputs[name].ndim}
        if len(lengths) > 1:
            raise InputMismatchError(
                f"The inputs have different numbers of samples: {sorted(lengths)}."
            )
        return [
            _checked(inputs[tensor.name], tensor, f"the input {tensor.name!r}") for tensor in wanted
        ]
    if wanted and len(wanted) > 1:
        raise InputMismatchError(
            f"The model takes {len(wanted)} inputs ({', '.join(t.name for t in wanted)}) and the "
            "file holds one array. Give an .npz file with an array of each name."
        )
    return _checked(inputs, wanted[0] if wanted else None, "the input")


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
    with path.open(encoding="utf-8-sig", newline="") as file:
        first = next(csv.reader(file), None)
    if not first:
        raise ValueError("it is empty")
    try:
        [float(cell) for cell in first]
        header = 0
    except ValueError:
        header = 1
    return np.loadtxt(
        path, delimiter=",", skiprows=header, ndmin=2, encoding="utf-8-sig", dtype=np.float32
    )


def _write_csv(predictions: Predictions, file: TextIO) -> None:
    writer: csv.DictWriter[str] | None = None
    for row in predictions.rows():
        if writer is None:
            writer = csv.DictWriter(file, fieldnames=list(row), lineterminator="\n")
            writer.writeheader()
        writer.writerow(row)


def _write_json_lines(predictions: Predictions, file: TextIO) -> None:
    for row in predictions.rows():
        file.write(json.dumps(row) + "\n")


def _write_text(
    predictions: Predictions, path: Path, write: Callable[[Predictions, TextIO], None]
) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        write(predictions, file)


def _write_npy(predictions: Predictions, path: Path) -> None:
    if len(predictions.outputs) > 1:
        raise InvalidArgumentError(
            f"The model has {len(predictions.outputs)} outputs "
            f"({', '.join(predictions.outputs)}), and an .npy file holds one array. Use .npz."
        )
    np.save(path, next(iter(predictions.outputs.values())))


def _write_npz(predictions: Predictions, path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in predictions.outputs.items():
            # Not np.savez: an output may be called like one of its arguments.
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)
