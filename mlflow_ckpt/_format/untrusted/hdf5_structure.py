"""Checks what is in HDF5 files that others wrote, before a tensor of them is read.

HDF5 files can name other files, devices and parts of themselves in place of tensors, and declare
tensors that they do not hold. Keras writes nothing of that kind.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5l, h5o, h5s, h5t, h5z

from mlflow_ckpt.errors import UnsafeFileError

# More are in a large file only: each takes some of its bytes, and none of another's.
_MOST_MEMBERS = 200_000
_BYTES_OF_MEMBER = 256
_MOST_DEPTH = 100
_MOST_ATTRIBUTES = 10_000
# Legacy files list the names of a layer's weights in an attribute.
_MOST_TEXTS = 65_536
# Numbers, booleans, and plain bytes: bfloat16 and the like.
_NUMBERS = (h5t.INTEGER, h5t.FLOAT, h5t.ENUM)
_TEXTS = (h5t.INTEGER, h5t.FLOAT, h5t.ENUM, h5t.STRING)
# Plain bytes with such a tag are of any type of NumPy's, also of one that holds addresses.
_NUMPY_TAG = b"NUMPY"


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as an HDF5 file declares it.

    Attributes:
        shape: Sizes of its axes.
        item_size: Bytes of an element.
    """

    shape: tuple[int, ...]
    item_size: int


def check(file: h5py.File, size: int, name: str) -> dict[str, StoredTensor]:
    """Check the whole structure of an open file, without reading a tensor.

    Args:
        file: The file.
        size: Its size in bytes.
        name: Its name, for error messages.

    Returns:
        The tensors by their paths.

    Raises:
        UnsafeFileError: If something in it is not a group, a tensor of numbers that the file itself
            holds, or a short attribute.
    """
    walk = _Walk(size, name)
    walk.run(file)
    return walk.tensors


@dataclass
class _Walk:
    size: int
    name: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    _seen: set[Any] = field(default_factory=set)
    _held: int = 0
    _count: int = 0

    @property
    def _most(self) -> int:
        return max(_MOST_MEMBERS, self.size // _BYTES_OF_MEMBER)

    def run(self, file: h5py.File) -> None:
        root = h5o.get_info(file.id)
        self._seen.add(root.addr)
        self._attributes(file["/"].id, "/")
        waiting = [(file["/"].id, "", 0)]
        while waiting:
            group, path, depth = waiting.pop()
            if depth > _MOST_DEPTH:
                raise self._unsafe(path[:100], f"is more than {_MOST_DEPTH} groups deep")
            for key in self._links(group, path):
                inside = f"{path}/{_text(key)}" if path else _text(key)
                item = self._opened(group, key, inside)
                self._attributes(item, inside)
                if isinstance(item, h5g.GroupID):
                    waiting.append((item, inside, depth + 1))
                else:
                    self.tensors[inside] = self._tensor(item, inside)

    def _links(self, group: h5g.GroupID, path: str) -> list[bytes]:
        names: list[bytes] = []
        links: list[tuple[bytes, int]] = []

        def add(name: bytes, info: Any) -> bool | None:
            # What is raised here gets lost in HDF5; True ends the iteration.
            names.append(name)
            if info.type != h5l.TYPE_HARD:
                links.append((name, info.type))
            return True if links or self._count + len(names) > self._most else None

        group.links.iterate(add, info=True)
        self._count += len(names)
        for name, kind in links:
            what = {h5l.TYPE_SOFT: "a link", h5l.TYPE_EXTERNAL: "a link to another file"}
            problem = f"is {what.get(kind, 'a link of an unknown kind')}"
            raise self._unsafe(f"{path}/{_text(name)}".lstrip("/"), problem)
        if self._count > self._most:
            raise self._unsafe("something", f"is one of more than {self._most} members")
        return names

    def _opened(self, group: h5g.GroupID, key: bytes, path: str) -> Any:
        info = h5o.get_info(group, key)
        if info.addr in self._seen:
            raise self._unsafe(path, "is in it twice")
        self._seen.add(info.addr)
        if info.type not in (h5o.TYPE_GROUP, h5o.TYPE_DATASET):
            raise self._unsafe(path, "is neither a group nor a tensor")
        return h5o.open(group, key)

    def _attributes(self, item: Any, path: str) -> None:
        count = h5a.get_num_attrs(item)
        if count > _MOST_ATTRIBUTES:
            raise self._unsafe(path, f"has {count} attributes")
        for index in range(count):
            attribute = h5a.open(item, index=index)
            kind, space = attribute.get_type(), attribute.get_space()
            many = space.get_simple_extent_npoints() if _is_filled(space) else 0
            if kind.get_class() not in _TEXTS or many > _MOST_TEXTS:
                raise self._unsafe(path, "has an attribute that is neither text nor numbers")
            if many * kind.get_size() > self.size:
                raise self._unsafe(path, "has an attribute that is larger than the file")

    def _tensor(self, item: h5d.DatasetID, path: str) -> StoredTensor:
        settings = item.get_create_plist()
        layout = settings.get_layout()
        # Asking for the shape of a virtual dataset would open the files that it names.
        if layout == h5d.VIRTUAL or settings.get_external_count():
            raise self._unsafe(path, "takes its values from other files")
        kind, space = item.get_type(), item.get_space()
        self._require_numbers(kind, path)
        if not _is_filled(space):
            raise self._unsafe(path, "has no shape")
        shape = tuple(int(size) for size in space.get_simple_extent_dims())
        bytes_declared = int(space.get_simple_extent_npoints()) * int(kind.get_size())
        filters = [settings.get_filter(index)[0] for index in range(settings.get_nfilters())]
        if filters:
            self._require_unpacked_size(item, path, filters, bytes_declared)
        else:
            self._require_held(item, path, bytes_declared)
        return StoredTensor(shape, int(kind.get_size()))

    def _require_numbers(self, kind: Any, path: str) -> None:
        number = kind.get_class() in _NUMBERS
        if kind.get_class() == h5t.OPAQUE:
            number = not kind.get_tag().upper().startswith(_NUMPY_TAG)
        elif kind.get_class() == h5t.STRING:
            number = not kind.is_variable_str()
        elif kind.get_class() == h5t.COMPOUND:
            number = kind.get_nmembers() == 2 and kind.dtype.kind == "c"
        if not number:
            raise self._unsafe(path, "holds something other than numbers")

    def _require_held(self, item: h5d.DatasetID, path: str, declared: int) -> None:
        """Require that the file has the bytes of a tensor, and not those of another one."""
        stored = int(item.get_storage_size())
        self._held += stored
        if declared > stored or self._held > self.size:
            raise self._unsafe(path, f"declares {declared} bytes, which the file does not hold")

    def _require_unpacked_size(
        self, item: h5d.DatasetID, path: str, filters: list[int], declared: int
    ) -> None:
        """Unpack a compressed tensor, chunk by chunk, to see that it is as large as declared."""
        chunk = int(np.prod(item.get_create_plist().get_chunk())) * int(item.get_type().get_size())
        if filters not in ([h5z.FILTER_DEFLATE], [h5z.FILTER_SHUFFLE, h5z.FILTER_DEFLATE]):
            raise self._unsafe(path, "is compressed by an unusual method")
        count = int(item.get_num_chunks())
        self._held += int(item.get_storage_size())
        if chunk * count < declared or self._held > self.size or count > _MOST_MEMBERS:
            raise self._unsafe(path, f"declares {declared} bytes, which the file does not hold")
        if chunk * count > max(_HARMLESS_BYTES, _MOST_GROWTH * self.size):
            raise self._unsafe(path, f"would unpack to {chunk * count} bytes")
        for index in range(count):
            place = item.get_chunk_info(index).chunk_offset
            mask, packed = item.read_direct_chunk(place)
            unpacking = zlib.decompressobj()
            if mask or len(unpacking.decompress(packed, chunk + 1)) != chunk:
                raise self._unsafe(path, "has a part that is not as large as it says")

    def _unsafe(self, path: str, problem: str) -> UnsafeFileError:
        return UnsafeFileError(
            f"{self.name} was not read: {path} in it {problem}, which no file of Keras does."
        )


# As for zip archives.
_MOST_GROWTH = 100
_HARMLESS_BYTES = 16 << 20


def _is_filled(space: h5s.SpaceID) -> bool:
    return bool(space.get_simple_extent_type() != h5s.NULL)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
