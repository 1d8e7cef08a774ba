"""Host memory that snapshots reuse."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# Shape and dtype of tensors by name.
Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


class Buffers:
    """Copies a model's tensors to host memory that the next snapshot reuses.

    Allocating fresh memory, page by page, takes several times as long as the copy. Only one
    snapshot at a time may use a set of buffers.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}

    def reserve(self, shapes: Shapes) -> None:
        """Allocate the memory for tensors before it is needed."""
        for name, (shape, dtype) in shapes.items():
            if dtype.hasobject:
                continue  # text, which some layers save
            array = np.empty(shape, dtype)
            array.reshape(-1).view(np.uint8).fill(0)
            self._arrays[name] = array

    def copy(self, name: str, value: Any) -> np.ndarray[Any, Any]:
        """Copy a tensor to the host, C-contiguous and in native byte order.

        Args:
            name: Name of the tensor, which is the same in every snapshot.
            value: A Keras variable, a backend tensor or an array: any shape, any dtype.
        """
        view = host_view(value)
        buffer = self._arrays.get(name)
        dtype = view.dtype.newbyteorder("=")
        if buffer is None or buffer.shape != view.shape or buffer.dtype != dtype:
            buffer = self._arrays[name] = np.empty(view.shape, dtype)
        np.copyto(buffer, view)
        return buffer


class Views(Buffers):
    """Returns views of tensors instead of copies, for a trial snapshot.

    Attributes:
        shapes: Shapes and dtypes of the tensors seen so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def copy(self, name: str, value: Any) -> np.ndarray[Any, Any]:
        """Return a view of the tensor, whose values may change with the next training step."""
        view = host_view(value)
        self.shapes[name] = (view.shape, view.dtype.newbyteorder("="))
        return view


def host_view(value: Any) -> np.ndarray[Any, Any]:
    """Return a tensor's values, as a view if the backend shares its memory.

    Copy it at once: its values may change with the next training step.
    """
    tensor = value.value if isinstance(value, keras.Variable) else value
    if hasattr(tensor, "read_value"):
        # TensorFlow's variables share their memory only this way.
        tensor = tensor.value()
    try:
        view = np.asarray(memoryview(tensor))
    except (BufferError, TypeError, ValueError):
        # No buffer protocol, or a dtype that it does not support, such as bfloat16.
        return np.asarray(keras.ops.convert_to_numpy(value))
    return view
