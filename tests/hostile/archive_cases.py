"""Zip archives, and NumPy's files, that grow, overlap, lead elsewhere, or hold objects."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np

from tests.hostile.entry_points import FILES, FOREIGN, LOADING
from tests.hostile.harness import Case
from tests.hostile.vessels import KERAS, WEIGHTS, rezipped, saved_by_others, whole_in_folder
from tests.hostile.world import Target, World

ARRAYS = "training_state.npz"
Members = dict[str, bytes]
# Returns an archive made of honest members.
Archive = Callable[[World, Members], bytes]
_ARCHIVES: dict[str, Archive] = {}


def _archive(name: str) -> Callable[[Archive], Archive]:
    def add(archive: Archive) -> Archive:
        _ARCHIVES[name] = archive
        return archive

    return add


def zipped(members: Members, method: int = zipfile.ZIP_STORED) -> bytes:
    """Return an archive."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return made.getvalue()


@cache
def _zeros() -> bytes:
    return bytes(1 << 30)


_bombs: dict[str, bytes] = {}


def _bomb(name: str, members: Members) -> bytes:
    """Return an archive with a member of 1 GiB, which takes seconds to make."""
    if name not in _bombs:
        _bombs[name] = zipped({**members, name: _zeros()}, zipfile.ZIP_DEFLATED)
    return _bombs[name]


@_archive("a bomb as the weights")
def _(world: World, members: Members) -> bytes:
    return _bomb(WEIGHTS, members)


@_archive("a bomb as the configuration")
def _(world: World, members: Members) -> bytes:
    return _bomb("config.json", members)


@_archive("a bomb as a vocabulary")
def _(world: World, members: Members) -> bytes:
    return _bomb("assets/layers/a.txt", members)


@_archive("a name that leads out")
def _(world: World, members: Members) -> bytes:
    return zipped({**members, "assets/../../../canary": b"x"})


@_archive("an absolute name")
def _(world: World, members: Members) -> bytes:
    return zipped({**members, str(world.canary): b"x"})


@_archive("backslashes in a name")
def _(world: World, members: Members) -> bytes:
    return zipped({**members, "assets\\..\\..\\canary": b"x"})


@_archive("a link")
def _(world: World, members: Members) -> bytes:
    made = io.BytesIO(zipped(members))
    with zipfile.ZipFile(made, "a") as archive:
        info = zipfile.ZipInfo("assets/link")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, str(world.secret))
    return made.getvalue()


@_archive("two members of one name")
def _(world: World, members: Members) -> bytes:
    made = io.BytesIO(zipped(members))
    with zipfile.ZipFile(made, "a") as archive:
        for _ in range(2):
            archive.writestr("assets/a", b"x")
    return made.getvalue()


def _patched(name: str, offset: int, value: bytes) -> Archive:
    """Change the entry of a member in the directory at the archive's end."""

    def archive(world: World, members: Members) -> bytes:
        content = bytearray(zipped(members))
        start = content.index(b"PK\x01\x02")
        while content[start + 46 : start + 46 + len(name)] != name.encode():
            start = content.index(b"PK\x01\x02", start + 1)
        content[start + offset : start + offset + len(value)] = value
        return bytes(content)

    return archive


_archive("an encrypted member")(_patched(WEIGHTS, 8, b"\x01\x00"))
_archive("an unknown method")(_patched(WEIGHTS, 10, b"\x63\x00"))
_archive("a size beyond the archive")(_patched(WEIGHTS, 20, struct.pack("<II", 1 << 31, 1 << 31)))
_archive("another unpacked size")(_patched(WEIGHTS, 24, struct.pack("<I", 0xFFFFFF00)))
_archive("a member beyond the end")(_patched(WEIGHTS, 42, struct.pack("<I", 0x7FFFFFFF)))
_archive("members that overlap")(_patched("config.json", 42, struct.pack("<I", 0)))


def _directory(offset: int, value: bytes) -> Archive:
    """Change the end of the directory."""

    def archive(world: World, members: Members) -> bytes:
        content = bytearray(zipped(members))
        start = content.rindex(b"PK\x05\x06")
        content[start + offset : start + offset + len(value)] = value
        return bytes(content)

    return archive


_archive("a directory of 4 GB")(_directory(12, b"\xf0\xff\xff\xff"))
_archive("a directory elsewhere")(_directory(16, b"\xf0\xff\xff\xff"))
_archive("several disks")(_directory(4, b"\x05\x00"))


@_archive("150,000 members")
def _(world: World, members: Members) -> bytes:
    return zipped({**members, **{f"assets/{number}": b"" for number in range(150_000)}})


@_archive("no weights")
def _(world: World, members: Members) -> bytes:
    return zipped({name: content for name, content in members.items() if name != WEIGHTS})


@_archive("no configuration")
def _(world: World, members: Members) -> bytes:
    return zipped({name: content for name, content in members.items() if name != "config.json"})


@_archive("pickled weights")
def _(world: World, members: Members) -> bytes:
    kept = {name: content for name, content in members.items() if name != WEIGHTS}
    made = io.BytesIO()
    np.savez(made, __root__=np.array([_Payload(world.canary)], object))
    return zipped({**kept, "model.weights.npz": made.getvalue()})


class _Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._canary,)


def _configuration(text: str) -> Archive:
    return lambda world, members: zipped({**members, "config.json": text.encode()})


_archive("a deep configuration")(_configuration('{"a":' * 200_000))
_archive("a configuration that is a list")(_configuration("[1, 2]"))
_archive("a configuration of half a character")(_configuration('{"class_name": "\\ud800"}'))


@_archive("compile settings that are a list")
def _(world: World, members: Members) -> bytes:
    config = json.loads(members["config.json"])
    return zipped(
        {**members, "config.json": json.dumps({**config, "compile_config": [3]}).encode()}
    )


def _in_checkpoint(archive: Archive) -> Callable[[World], Target]:
    return lambda world: world.forge(
        lambda directory: rezipped(directory / KERAS, lambda members: archive(world, members))
    )


def _npy(header: str, version: bytes = b"\x01\x00") -> bytes:
    text = header.encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    size = struct.pack("<H" if version == b"\x01\x00" else "<I", len(text))
    return b"\x93NUMPY" + version + size + text


def _descr(descr: str, shape: str) -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"


def _pickled(world: World) -> bytes:
    made = io.BytesIO()
    np.save(made, np.array([_Payload(world.canary)], object), allow_pickle=True)
    return made.getvalue()


_ARRAYS: dict[str, Callable[[World], bytes]] = {
    "pickled objects": _pickled,
    "a bare pickle": lambda world: pickle.dumps(_Payload(world.canary)),
    "16 TB declared": lambda world: _npy(_descr("'<f4'", "(4398046511104,)")) + bytes(64),
    "8 GiB declared": lambda world: _npy(_descr("'<f4'", "(2147483648,)")) + bytes(64),
    "a negative shape": lambda world: _npy(_descr("'<f4'", "(-4,)")) + bytes(64),
    "a shape of text": lambda world: _npy(_descr("'<f4'", "('a',)")) + bytes(64),
    "a shape that overflows": lambda world: _npy(_descr("'<f4'", f"({2**63},)")) + bytes(64),
    "a huge number in the shape": lambda world: _npy(_descr("'<f4'", f"({'9' * 5000},)")),
    "records": lambda world: _npy(_descr("[('a', '<f4'), ('b', 'O')]", "(2,)")) + bytes(64),
    "an unknown dtype": lambda world: _npy(_descr("'<q9'", "(2,)")) + bytes(64),
    "a dtype of nothing": lambda world: _npy(_descr("'V0'", "(1000000000000,)")),
    "a dtype of text": lambda world: _npy(_descr("'<U3'", "(2,)")) + bytes(24),
    "a header that is no literal": lambda world: _npy("__import__('os').system('true')"),
    "a header of brackets": lambda world: _npy("(" * 5000),
    "a header without an end": lambda world: b"\x93NUMPY\x01\x00\xff\xff{",
    "a header of 4 GB": lambda world: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
    "an unknown version": lambda world: b"\x93NUMPY\x09\x00" + bytes(60),
    "no header": lambda world: b"\x93NUM",
    "nothing": lambda world: b"",
    "half the values": lambda world: _npy(_descr("'<f4'", "(32,)")) + bytes(64),
}


def _as_training_arrays(content: Callable[[World], bytes]) -> Callable[[World], Target]:
    def change(world: World, directory: Path) -> None:
        (directory / ARRAYS).write_bytes(zipped({"random/python/1.npy": content(world)}))

    return lambda world: world.forge(lambda directory: change(world, directory))


def _as_inputs(content: Callable[[World], bytes], ending: str) -> Callable[[World], Target]:
    def make(world: World) -> Target:
        path = world.place() / f"x{ending}"
        made = content(world)
        path.write_bytes(zipped({"x.npy": made}) if ending == ".npz" else made)
        return Target(files={"inputs": path})

    return make


@cache
def _bomb_of_arrays(world: World) -> bytes:
    return zipped({"x.npy": _npy(_descr("'u1'", f"({1 << 30},)")) + _zeros()}, zipfile.ZIP_DEFLATED)


_STATE = ("load_model", "resume", "restore", "$ restore", "$ verify")


def _all() -> Iterator[Case]:
    for name, archive in _ARCHIVES.items():
        yield Case(f"{name} in a .keras", _in_checkpoint(archive), (*LOADING, "diff", "$ verify"))
        yield Case(f"{name} in an imported .keras", whole_in_folder(archive), FILES)
        yield Case(f"{name} in another tool's .keras", saved_by_others(archive), FOREIGN)
    for name, content in _ARRAYS.items():
        yield Case(f"{name} in training_state.npz", _as_training_arrays(content), _STATE)
        yield Case(f"{name} in an .npy of inputs", _as_inputs(content, ".npy"), ("$ predict",))
        yield Case(f"{name} in an .npz of inputs", _as_inputs(content, ".npz"), ("$ predict",))
    yield Case(
        "a bomb as training_state.npz",
        lambda world: world.forge(
            lambda directory: (directory / ARRAYS).write_bytes(_bomb_of_arrays(world))
        ),
        _STATE,
    )
    yield Case(
        "a bomb as an .npz of inputs",
        lambda world: _zip_of_inputs(world, _bomb_of_arrays(world)),
        ("$ predict",),
    )


def _zip_of_inputs(world: World, content: bytes) -> Target:
    path = world.place() / "x.npz"
    path.write_bytes(content)
    return Target(files={"inputs": path})


CASES = list(_all())
