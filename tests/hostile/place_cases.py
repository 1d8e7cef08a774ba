"""Directories and artifact stores: FIFOs, devices, links, and servers that never come to an end."""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from mlflow.tracking import MlflowClient

from tests.hostile.entry_points import FILES, FOREIGN, LOADING, READING
from tests.hostile.harness import Case
from tests.hostile.world import Target, World, seal_manifest

_CHECKPOINT_FILES = (
    *("manifest.json", "fingerprint.json", "architecture.json", "training_state.json"),
    *("training_state.npz", "model.weights.h5", "data/model.keras", "MLmodel"),
)
Spoil = Callable[[World, Path], object]


def _fifo(world: World, path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _link(target: Callable[[World, Path], str]) -> Spoil:
    def spoil(world: World, path: Path) -> None:
        path.unlink(missing_ok=True)
        path.symlink_to(target(world, path))

    return spoil


def _directory(world: World, path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _socket(world: World, path: Path) -> None:
    path.unlink(missing_ok=True)
    # A socket's path is limited to about 100 characters.
    before = Path.cwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(before)


_SPOILS: dict[str, Spoil] = {
    "a FIFO": _fifo,
    "a directory": _directory,
    "a socket": _socket,
    "a link to a device without an end": _link(lambda world, path: "/dev/zero"),
    "a link to the secret": _link(lambda world, path: str(world.secret)),
    "a link to itself": _link(lambda world, path: path.name),
    "a link to nothing": _link(lambda world, path: "nothing"),
    "a link to /proc": _link(lambda world, path: "/proc/self/environ"),
}


def _in_checkpoint(spoil: Spoil, file: str) -> Callable[[World], Target]:
    def make(world: World) -> Target:
        target = world.forge(lambda _: None)
        path = target.watched[0] / "checkpoints" / "epoch_0001" / file
        spoil(world, path)
        target.watched.clear()
        return target

    return make


def _in_folder(spoil: Spoil, name: str) -> Callable[[World], Target]:
    def make(world: World) -> Target:
        folder = world.place()
        shutil.copy(world.honest / "data" / "model.keras", folder / "model.02.keras")
        spoil(world, folder / name)
        return Target(folder=folder)

    return make


def _of_others(spoil: Spoil) -> Callable[[World], Target]:
    def make(world: World) -> Target:
        run_id = world.new_run()
        directory = world.artifacts(run_id) / "checkpoints" / "epoch_0"
        directory.mkdir(parents=True)
        spoil(world, directory / "checkpoint.keras")
        return Target(run_id)

    return make


def _as_file(spoil: Spoil, argument: str, ending: str) -> Callable[[World], Target]:
    def make(world: World) -> Target:
        folder, path = world.place(), world.place() / f"file{ending}"
        shutil.copy(world.honest / "model.weights.h5", folder / "model.01.weights.h5")
        spoil(world, path)
        return Target(folder=folder, files={argument: path})

    return make


def _looping(world: World) -> Target:
    """A directory that is in itself."""
    target = world.forge(lambda _: None)
    directory = target.watched[0] / "checkpoints" / "epoch_0001"
    (directory / "data" / "again").symlink_to(directory)
    (directory / "data" / "also").symlink_to(directory)
    return target


def _deep(world: World) -> Target:
    def change(directory: Path) -> None:
        (directory / ("a/" * 200)).mkdir(parents=True)

    return world.forge(change)


def _extra(world: World) -> Target:
    target = world.forge(lambda _: None)
    (target.watched[0] / "checkpoints" / "epoch_0001" / "more.txt").write_text("x")
    return target


class _Server(ThreadingHTTPServer):
    """An artifact store over HTTP that serves a checkpoint, and more than that.

    Args:
        root: The run's artifacts.
        listing: Changes a listing of a path.
        content: Returns what is sent of a path, piece by piece; None for the file as it is.
    """

    daemon_threads = True

    def __init__(
        self,
        root: Path,
        listing: Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]],
        content: Callable[[str], Iterator[bytes] | None],
    ) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root, self.listing, self.content = root, listing, content
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/api/2.0/mlflow-artifacts/artifacts/r"


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        inside = parts.path.partition("/artifacts/r")[2].strip("/")
        if "path" in parse_qs(parts.query):
            path = parse_qs(parts.query)["path"][0].removeprefix("r").strip("/")
            self._send(iter([json.dumps({"files": self._listed(path)}).encode()]))
            return
        pieces = self.server.content(inside)
        file = self.server.root / inside
        if pieces is None and not file.is_file():
            self.send_error(404)
        else:
            self._send(pieces or iter([file.read_bytes()]))

    def _listed(self, path: str) -> list[dict[str, Any]]:
        directory = self.server.root / path
        entries = sorted(directory.iterdir()) if directory.is_dir() else []
        files = [
            {"path": item.name, "is_dir": item.is_dir(), "file_size": item.stat().st_size}
            for item in entries
        ]
        return self.server.listing(path, files)

    def _send(self, pieces: Iterator[bytes]) -> None:
        self.send_response(200)
        self.end_headers()
        try:
            for piece in pieces:
                self.wfile.write(piece)
        except OSError:
            pass  # nobody listens any more

    def log_message(self, *arguments: Any) -> None:
        pass


def _endless() -> Iterator[bytes]:
    while True:
        yield bytes(1 << 20)


def _served(
    listing: Callable[[str, list[dict[str, Any]]], list[dict[str, Any]]] = lambda _, files: files,
    content: Callable[[str], Iterator[bytes] | None] = lambda _: None,
    *,
    foreign: bool = False,
) -> Callable[[World], Target]:
    """Return what makes a run whose artifacts come from such a server."""

    def make(world: World) -> Target:
        root = world.place()
        server = _Server(root, listing, content)
        experiment = MlflowClient().create_experiment(f"at {root}", server.uri)
        run_id = str(MlflowClient().create_run(experiment).info.run_id)
        # MLflow puts the run's id into the location.
        artifacts = root / run_id / "artifacts"
        directory = artifacts / "checkpoints" / ("epoch_0" if foreign else "epoch_0001")
        if foreign:
            directory.mkdir(parents=True)
            shutil.copy(world.honest / "data" / "model.keras", directory / "checkpoint.keras")
        else:
            shutil.copytree(world.honest, directory)
            manifest = json.loads((directory / "manifest.json").read_text())
            (directory / "MLmodel").unlink()
            shutil.copy(world.honest / "MLmodel", directory / "MLmodel")
            text = (directory / "MLmodel").read_text().replace(manifest["run_id"], run_id)
            (directory / "MLmodel").write_text(text)
            seal_manifest(directory, manifest, lambda content: content.update(run_id=run_id))
        return Target(run_id)

    return make


def _endless_of(name: str) -> Callable[[str], Iterator[bytes] | None]:
    return lambda path: _endless() if path.endswith(name) else None


def _with(name: str, number: int, **entry: Any) -> Callable[[str, list[Any]], list[Any]]:
    """Add entries to a listing of a checkpoint's directory, or of any."""

    def listing(path: str, files: list[Any]) -> list[Any]:
        made = [
            {"path": f"{name}{i}", "is_dir": False, "file_size": 1, **entry} for i in range(number)
        ]
        return [*files, *made] if "checkpoints" in path else files

    return listing


def _resized(size: Any) -> Callable[[str, list[Any]], list[Any]]:
    return lambda path, files: [{**file, "file_size": size} for file in files]


def _servers() -> Iterator[Case]:
    reading = ("load_model", "verify", "$ restore", "$ list", "$ report")
    for name in ("data/model.keras", "fingerprint.json", "manifest.json", "MLmodel"):
        made = _served(content=_endless_of(name))
        yield Case(f"a server that sends {name} without end", made, reading)
    listings = {
        "a directory in each directory": _with("more", 1, is_dir=True),
        "two directories in each directory": _with("more", 2, is_dir=True),
        "a hundred thousand files": _with("file", 100_000),
        "thirty thousand checkpoints": _with("epoch_1", 30_000, is_dir=True),
        "a file outside": _with("../../../x", 1),
        "negative sizes": _resized(-5),
        "huge sizes": _resized(2**70),
        "sizes of nothing": _resized(None),
        "sizes of text": _resized("x"),
        "too small sizes": _resized(1),
    }
    for name, listing in listings.items():
        yield Case(f"a server that lists {name}", _served(listing), reading)
    endless = _served(content=_endless_of("checkpoint.keras"), foreign=True)
    yield Case("another tool's model without end", endless, FOREIGN)
    unlisted = _served(_resized(None), _endless_of("checkpoint_metrics.json"), foreign=True)
    yield Case("another tool's model without sizes", unlisted, FOREIGN)


def _all() -> Iterator[Case]:
    for name, spoil in _SPOILS.items():
        for file in _CHECKPOINT_FILES:
            entry_points = (*READING, *LOADING) if file in _CHECKPOINT_FILES[:2] else LOADING[:3]
            made = _in_checkpoint(spoil, file)
            yield Case(f"{name} as {file}", made, (*entry_points, "$ verify", "$ report")[-12:])
        for file in ("model.01.keras", "model.01.h5"):
            yield Case(f"{name} as {file} to import", _in_folder(spoil, file), FILES)
        yield Case(f"{name} as another tool's model", _of_others(spoil), FOREIGN)
        yield Case(f"{name} as inputs", _as_file(spoil, "inputs", ".npy"), ("$ predict",))
        for ending in (".json", ".yaml", ".keras"):
            made = _as_file(spoil, "architecture", ending)
            yield Case(f"{name} as --architecture {ending}", made, FILES)
    yield Case("a directory in itself", _looping, (*READING, "load_model", "$ register"))
    yield Case("200 directories in each other", _deep, (*READING, "load_model", "$ register"))
    yield Case("a file that nothing lists", _extra, ("load_model", "$ verify"))
    yield from _servers()


CASES = list(_all())
