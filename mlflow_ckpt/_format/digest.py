"""SHA-256 digests of bytes, files and tensors, written as `sha256:<hex>`."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlflow_ckpt._format.untrusted.regular_file import open_regular

_TEXT = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Digest:
    """A hash with the name of its algorithm.

    Attributes:
        algorithm: Always `"sha256"` in this schema version.
        value: Lower-case hexadecimal digits.
    """

    algorithm: str
    value: str

    def __str__(self) -> str:
        """Return `sha256:<hex>`."""
        return f"{self.algorithm}:{self.value}"

    @classmethod
    def parse(cls, text: str) -> Digest:
        """Parse `sha256:<hex>`.

        Raises:
            ValueError: If `text` is anything else.
        """
        if not isinstance(text, str) or not _TEXT.fullmatch(text):
            raise ValueError(f"Expected 'sha256:' and 64 hexadecimal digits. Received: {text!r}")
        algorithm, _, value = text.partition(":")
        return cls(algorithm, value)

    @classmethod
    def of_bytes(cls, data: bytes | memoryview) -> Digest:
        """Hash `data`."""
        return cls("sha256", hashlib.sha256(data).hexdigest())

    @classmethod
    def of_file(cls, path: Path) -> Digest:
        """Hash the bytes of the file at `path`.

        Raises:
            UnsafeFileError: If it is a link, a FIFO or a device.
            OSError: If the file cannot be read.
        """
        with open_regular(path) as file:
            return cls("sha256", hashlib.file_digest(file, "sha256").hexdigest())

    @classmethod
    def of_array(cls, array: np.ndarray[Any, Any]) -> Digest:
        """Hash the array's little-endian, C-order bytes (any shape, any fixed-size dtype)."""
        return cls.of_bytes(array_bytes(array))


def array_bytes(array: np.ndarray[Any, Any]) -> memoryview:
    """Return the array's little-endian, C-order bytes, copied only if it is laid out differently.

    Args:
        array: Any shape; any dtype with a fixed item size (including bfloat16 and float8).
    """
    contiguous = np.ascontiguousarray(array)
    order = contiguous.dtype.byteorder
    if order == ">" or (order == "=" and sys.byteorder == "big"):
        contiguous = contiguous.byteswap()
    # Dtypes such as bfloat16 do not support the buffer protocol; their view as bytes does.
    return contiguous.reshape(-1).view(np.uint8).data
