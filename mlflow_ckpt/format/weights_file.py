"""Reads tensors out of Keras's files with h5py alone: `.weights.h5`, `.keras` and legacy `.h5`."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from mlflow_ckpt.format.digest import Digest
from mlflow_ckpt.format.layout import WEIGHTS_IN_ARCHIVE


@contextmanager
def open_weights(path: Path) -> Iterator[h5py.File]:
    """Open the HDF5 file at `path`, or the one inside the `.keras` archive at `path`.

    Raises:
        OSError, KeyError, zipfile.BadZipFile: If it is not such a file.
    """
    if path.suffix != ".keras":
        with h5py.File(path, "r") as file:
            yield file
        return
    with (
        zipfile.ZipFile(path) as archive,
        archive.open(WEIGHTS_IN_ARCHIVE) as member,
        h5py.File(member, "r") as file,
    ):
        yield file


def has_assets(archive: Path) -> bool:
    """Whether a `.keras` archive holds files beside the weights, such as vocabularies."""
    with zipfile.ZipFile(archive) as opened:
        return any(name.startswith("assets/") for name in opened.namelist())


def tensors(file: h5py.File) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield every dataset of an open file: its path, and its values as stored.

    bfloat16 comes as two-byte void: the bytes are right, so the digest is.
    """
    names: list[str] = []
    file.visititems(
        lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
    )
    for name in names:
        yield name, np.asarray(file[name])


def damaged_tensors(path: Path, expected: dict[str, Digest]) -> tuple[str, ...]:
    """Name the tensors that a weights file should hold and does not.

    Args:
        path: A `.keras` or `.weights.h5` file, in which a tensor's name is its path; or a legacy
            `.h5`, which names tensors in its own way, so they are looked for by digest alone.
        expected: Digests of the tensors by name.

    Returns:
        The names, in the order of `expected`; empty if the file is too damaged to be opened or
        nothing but its envelope differs.
    """
    found: dict[str, str] = {}
    try:
        source = _archived_bytes(path) if path.suffix == ".keras" else path
        with h5py.File(source, "r") as file:
            found = {name: str(Digest.of_array(array)) for name, array in tensors(file)}
    except (OSError, KeyError, RuntimeError, ValueError, struct.error, zipfile.BadZipFile):
        # A file that cannot be opened at all: the caller already knows that it is damaged.
        return ()
    if path.suffix == ".keras" or path.name.endswith(".weights.h5"):
        return tuple(name for name, digest in expected.items() if found.get(name) != str(digest))
    present = set(found.values())
    return tuple(name for name, digest in expected.items() if str(digest) not in present)


def _archived_bytes(path: Path) -> io.BytesIO:
    """Return the weights file of a damaged `.keras` archive, which `zipfile` would not hand out.

    Keras stores it uncompressed; `zipfile` reads no member whose checksum is wrong.
    """
    with zipfile.ZipFile(path) as archive, path.open("rb") as file:
        member = archive.getinfo(WEIGHTS_IN_ARCHIVE)
        # The member's own header: 26 bytes, the lengths of two fields, the fields.
        file.seek(member.header_offset + 26)
        name_length, extra_length = struct.unpack("<HH", file.read(4))
        file.seek(name_length + extra_length, io.SEEK_CUR)
        return io.BytesIO(file.read(member.file_size))
