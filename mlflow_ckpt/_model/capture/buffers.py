"""Host memory that snapshots are taken into, again and again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

# Shape and type of each tensor by its name.
Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype[Any]]]


class Buffers:
    """Host copies of a model's tensors, whose memory the next snapshot uses again.

    Fresh memory costs several times what the copy itself does: the operating system hands it out
    page by page. One snapshot at a time may use a set of buffers.
    """

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}

    def reserve(self, shapes: Shapes) -> None:
        """Have the operating system hand out the memory for such tensors, before it is needed."""
        for name, (shape, dtype) in shapes.items():
            if dtype.hasobject:
                continue  # text, of a layer with values of its own
            array = np.empty(shape, dtype)
            array.reshape(-1).view(np.uint8).fill(0)
            self._arrays[name] = array

    def copy(self, name: str, value: Any) -> np.ndarray[Any, Any]:
        """Copy a tensor to the host.

        Args:
            name: The same for the same tensor of each snapshot.
            value: A Keras variable, a tensor of the backend or an array: any shape, any dtype.

        Returns:
            The copy, C-contiguous and in the machine's byte order.
        """
        view = host_view(value)
        buffer = self._arrays.get(name)
        dtype = view.dtype.newbyteorder("=")
        if buffer is None or buffer.shape != view.shape or buffer.dtype != dtype:
            buffer = self._arrays[name] = np.empty(view.shape, dtype)
        np.copyto(buffer, view)
        return buffer


class Views(Buffers):
    """Shows tensors in place of copying them, to try a snapshot out.

    Attributes:
        shapes: What was shown.
    """

    def __init__(self) -> None:
        super().__init__()
        self.shapes: dict[str, tuple[tuple[int, ...], np.dtype[Any]]] = {}

    def copy(self, name: str, value: Any) -> np.ndarray[Any, Any]:
        """Return the tensor's values, which may change with the next training step."""
        view = host_view(value)
        self.shapes[name] = (view.shape, view.dtype.newbyteorder("="))
        return view


def host_view(value: Any) -> np.ndarray[Any, Any]:
    """Return a tensor's values without a copy where the backend lends its memory.

    It is to be copied at once: what it shows may change with the next training step.
    """
    tensor = value.value if isinstance(value, keras.Variable) else value
    if hasattr(tensor, "read_value"):
        # TensorFlow's variables lend their memory in this way, and give copies in all others.
        tensor = tensor.value()
    try:
        view = np.asarray(memoryview(tensor))
    except (BufferError, TypeError, ValueError):
        # No buffer protocol, or a type it does not know, such as bfloat16.
        return np.asarray(keras.ops.convert_to_numpy(value))
    return view
