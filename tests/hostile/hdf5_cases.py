"""HDF5 files that lead elsewhere, declare what they do not hold, or never end."""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import h5py
import numpy as np

from tests.hostile.harness import Case
from tests.hostile.vessels import KERAS_3, LEGACY, Change
from tests.hostile.world import World

SHAPE = (4, 3)
# Changes an open file; gets the path of a tensor of shape (4, 3) in it.
Trick = Callable[[World, h5py.File, str], object]
_TRICKS: dict[str, Trick] = {}


def _trick(name: str) -> Callable[[Trick], Trick]:
    def add(trick: Trick) -> Trick:
        _TRICKS[name] = trick
        return trick

    return add


def _applied(trick: Trick) -> Change:
    def change(world: World, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            found: list[str] = []
            file.visititems(
                lambda name, item: (
                    found.append(name)
                    if isinstance(item, h5py.Dataset) and item.shape == SHAPE
                    else None
                )
            )
            # The last is one of the optimizer's, if there is an optimizer.
            names = [name for name in found if "optimizer" in name] or found
            trick(world, file, names[-1])

    return change


def _secret_h5(world: World) -> str:
    """Return a file of this machine with the secret as a tensor."""
    path = world.secret.with_suffix(".h5")
    if not path.exists():
        with h5py.File(path, "w") as file:
            content = np.frombuffer(world.secret.read_bytes(), np.uint8)[: 4 * 3 * 16]
            file["kernel"] = content[:12].reshape(SHAPE)
    return str(path)


def _fifo(world: World) -> str:
    path = world.place() / "fifo"
    os.mkfifo(path)
    return str(path)


def _replaced(file: h5py.File, name: str) -> tuple[h5py.Group, str]:
    parent, _, last = name.rpartition("/")
    group = file[parent] if parent else file
    del group[last]
    return group, last


@_trick("external storage")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group.create_dataset(last, SHAPE, "uint8", external=[(str(world.secret), 0, 12)])


@_trick("external storage in a FIFO")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group.create_dataset(last, SHAPE, "uint8", external=[(_fifo(world), 0, 12)])


@_trick("an external link")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = h5py.ExternalLink(_secret_h5(world), "kernel")


@_trick("an external link to a FIFO")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = h5py.ExternalLink(_fifo(world), "kernel")


@_trick("a soft link")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group["twin"] = np.zeros(SHAPE, "float32")
    group[last] = h5py.SoftLink(f"{group.name}/twin")


@_trick("a soft link to nothing")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = h5py.SoftLink("/nothing")


@_trick("soft links in a circle")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = h5py.SoftLink(f"{group.name}/other")
    group["other"] = h5py.SoftLink(f"{group.name}/{last}")


@_trick("a group in itself")
def _(world: World, file: h5py.File, name: str) -> None:
    group = file[name.rpartition("/")[0]]
    group["again"] = group


@_trick("one tensor linked often")
def _(world: World, file: h5py.File, name: str) -> None:
    for number in range(50):
        file[f"again_{number}"] = file[name]


@_trick("a virtual dataset")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    layout = h5py.VirtualLayout(SHAPE, "uint8")
    layout[:] = h5py.VirtualSource(_secret_h5(world), "kernel", SHAPE)
    group.create_virtual_dataset(last, layout)


@_trick("a virtual dataset of a FIFO")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    layout = h5py.VirtualLayout(SHAPE, "uint8", maxshape=(None, 3))
    source = h5py.VirtualSource(_fifo(world), "kernel", SHAPE, maxshape=(None, 3))
    layout[: h5py.h5s.UNLIMITED, :] = source[: h5py.h5s.UNLIMITED, :]
    group.create_virtual_dataset(last, layout)


@_trick("a virtual dataset of itself")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    layout = h5py.VirtualLayout(SHAPE, "float32")
    layout[:] = h5py.VirtualSource(".", f"{group.name}/{last}", SHAPE)
    group.create_virtual_dataset(last, layout)


@_trick("8 GiB declared")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group.create_dataset(last, (1 << 31,), "float32")


@_trick("16 TB declared")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group.create_dataset(last, (1 << 42,), "float32")


@_trick("16 TB declared in chunks")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group.create_dataset(last, (1 << 42,), "float32", chunks=(1024,))


@cache
def _bomb() -> bytes:
    return zlib.compress(bytes(1 << 30), 9)


@_trick("a compressed chunk of 1 GiB")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    more = {"chunks": (1024, 1024), "maxshape": (None, None), "compression": "gzip"}
    made = group.create_dataset(last, SHAPE, "float32", **more)
    made.id.write_direct_chunk((0, 0), _bomb())


@_trick("1 GiB of zeros compressed")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    shape = (1 << 28,)
    made = group.create_dataset(last, shape, "float32", chunks=shape, compression="gzip")
    made.id.write_direct_chunk((0,), _bomb())


@_trick("a filter of a plugin")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk(SHAPE)
    plist.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, ())
    space = h5py.h5s.create_simple(SHAPE)
    h5py.h5d.create(group.id, last.encode(), h5py.h5t.IEEE_F32LE, space, plist)


def _of_dtype(dtype: object, value: object = None) -> Trick:
    def trick(world: World, file: h5py.File, name: str) -> None:
        group, last = _replaced(file, name)
        group.create_dataset(last, SHAPE, dtype)
        if value is not None:
            group[last][0, 0] = value

    return trick


_trick("variable-length numbers")(_of_dtype(h5py.vlen_dtype(np.float32), [1.0, 2.0]))
_trick("variable-length text")(_of_dtype(h5py.string_dtype(), "text"))
_trick("references")(_of_dtype(h5py.ref_dtype))
_trick("region references")(_of_dtype(h5py.regionref_dtype))
_trick("records")(_of_dtype([("a", "f4"), ("b", "f4")]))
_trick("arrays as elements")(_of_dtype(np.dtype(("f4", (1000,)))))


@_trick("objects in plain bytes")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    kind = h5py.h5t.create(h5py.h5t.OPAQUE, 8)
    kind.set_tag(b"NUMPY:O")
    space = h5py.h5s.create_simple(SHAPE)
    made = h5py.h5d.create(group.id, last.encode(), kind, space)
    made.write(h5py.h5s.ALL, h5py.h5s.ALL, np.full(SHAPE, 0x41414141, "V8"), mtype=kind)


@_trick("a named type in the place of a tensor")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = np.dtype("f4")


@_trick("a group in the place of a tensor")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group.create_group(last)


@_trick("a tensor in the place of a group")
def _(world: World, file: h5py.File, name: str) -> None:
    parent = name.rpartition("/")[0]
    del file[parent]
    file[parent] = np.zeros(3, "float32")


@_trick("no tensor at all")
def _(world: World, file: h5py.File, name: str) -> None:
    for key in list(file):
        del file[key]


@_trick("another shape")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = np.zeros((3, 4), "float32")


@_trick("an empty dataspace")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = h5py.Empty("f4")


@_trick("another dtype")
def _(world: World, file: h5py.File, name: str) -> None:
    group, last = _replaced(file, name)
    group[last] = np.zeros(SHAPE, "complex128")


@_trick("three thousand groups inside each other")
def _(world: World, file: h5py.File, name: str) -> None:
    group = file
    for _ in range(3000):
        group = group.create_group("g")


@_trick("many members")
def _(world: World, file: h5py.File, name: str) -> None:
    group = file.create_group("more")
    kind = h5py.h5s.create_simple(())
    for number in range(20_000):
        h5py.h5d.create(group.id, str(number).encode(), h5py.h5t.IEEE_F32LE, kind)


@_trick("a large attribute")
def _(world: World, file: h5py.File, name: str) -> None:
    file[name].attrs.create("dtype", np.zeros(8000, "f8"))


@_trick("references in an attribute")
def _(world: World, file: h5py.File, name: str) -> None:
    file[name].attrs["dtype"] = file.ref


@_trick("another dtype in an attribute")
def _(world: World, file: h5py.File, name: str) -> None:
    file[name].attrs["dtype"] = "bfloat16"


def _names(*names: bytes) -> Trick:
    def trick(world: World, file: h5py.File, name: str) -> None:
        group = file.get("optimizer_weights") or file["model_weights"]
        group.attrs["weight_names"] = list(names)

    return trick


_LEGACY_ONLY: dict[str, Trick] = {
    "names that lead out of the group": _names(b"../model_weights", b"/", b"."),
    "names of nothing": _names(b"a", b"b", b"c"),
    "names of groups": _names(b"adam", b"adam"),
    "numbers for names": lambda world, file, name: file["optimizer_weights"].attrs.__setitem__(
        "weight_names", [1, 2, 3]
    ),
    "text for a list of names": lambda world, file, name: file[
        "optimizer_weights"
    ].attrs.__setitem__("weight_names", "abcdefgh"),
    "deep settings": lambda world, file, name: file.attrs.__setitem__(
        "training_config", "[" * 100_000
    ),
    "a deep configuration": lambda world, file, name: file.attrs.__setitem__(
        "model_config", '{"a":' * 100_000
    ),
    "settings that are a number": lambda world, file, name: file.attrs.__setitem__(
        "training_config", 3.5
    ),
    "settings of another type": lambda world, file, name: file.attrs.__setitem__(
        "training_config", '{"optimizer_config": [1], "loss": {"class_name": 7}, "metrics": 3}'
    ),
}


def _of_bytes(content: Callable[[bytes], bytes]) -> Change:
    return lambda world, path: path.write_bytes(content(path.read_bytes()))


_BYTES: dict[str, Change] = {
    "half a file": _of_bytes(lambda content: content[: len(content) // 2]),
    "an empty file": _of_bytes(lambda content: b""),
    "a user block": _of_bytes(lambda content: bytes(512) + content),
    "random bytes after the signature": _of_bytes(
        lambda content: content[:64] + os.urandom(len(content) - 64)
    ),
    "a zip archive under its name": _of_bytes(lambda content: b"PK\x03\x04" + content),
}


def _all() -> Iterator[Case]:
    changes = {name: _applied(trick) for name, trick in _TRICKS.items()} | _BYTES
    for vessel in (*KERAS_3, *LEGACY):
        for name, change in changes.items():
            yield vessel.case(name, change)
    for vessel in LEGACY:
        for name, trick in _LEGACY_ONLY.items():
            yield vessel.case(name, _applied(trick))


CASES = list(_all())
