"""Models whose configuration makes Keras run code, or read or write files of this machine.

`KNOWN` names, for each vulnerability that was published for Keras, the cases that try it.
"""

from __future__ import annotations

import io
import json
import pickle
import shlex
import tarfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import h5py
import keras

from tests.hostile.entry_points import FILES, FOREIGN, LOADING
from tests.hostile.harness import Case
from tests.hostile.vessels import KERAS, LEGACY, rezipped, saved_by_others, whole_in_folder
from tests.hostile.world import Target, World

Config = dict[str, Any]
# Changes the configuration of a model.
_Evil = Callable[[World, Config], object]
_EVIL: dict[str, _Evil] = {}


def _evil(name: str) -> Callable[[_Evil], _Evil]:
    def add(evil: _Evil) -> _Evil:
        _EVIL[name] = evil
        return evil

    return add


def _with_layer(config: Config, class_name: str, package: str, /, **settings: Any) -> None:
    """Add a layer to a sequential model."""
    layer = {"name": "evil", "trainable": True, "dtype": "float32", **settings}
    config["config"]["layers"].append(
        {"module": package, "class_name": class_name, "config": layer, "registered_name": None}
    )


def _with_call(config: Config, module: str, function: str, *args: Any, **kwargs: Any) -> None:
    """Make a functional model of it, one of whose layers is a function that is called."""
    reference = {
        "module": module, "class_name": "function", "config": function,
        "registered_name": function, "name": "evil",
        "inbound_nodes": [{"args": list(args), "kwargs": kwargs}],
    }  # fmt: skip
    config.update(class_name="Functional", module="keras.src.models.functional")
    config["config"] = {
        "name": "model", "trainable": True, "layers": [reference],
        "input_layers": [], "output_layers": [],
    }  # fmt: skip


def _function_that_writes(world: World) -> Config:
    """Return the bytecode of a function that creates the canary, as Keras writes it."""
    function = eval(f"lambda x: (open({str(world.canary)!r}, 'w').close(), x)[1]")
    config: Config = keras.layers.Lambda(function).get_config()["function"]
    return config


def _touch(world: World) -> str:
    return f"touch {shlex.quote(str(world.canary))}"


@_evil("bytecode in a Lambda layer")
def _(world: World, config: Config) -> None:
    function = _function_that_writes(world)
    _with_layer(config, "Lambda", "keras.layers", function=function, arguments={})


@_evil("a function of os in a Lambda layer")
def _(world: World, config: Config) -> None:
    function = {
        "module": "os", "class_name": "function", "config": "system", "registered_name": "system",
    }  # fmt: skip
    _with_layer(
        config, "Lambda", "keras.layers", function=function, arguments={"command": _touch(world)}
    )


@_evil("a function of os as a layer")
def _(world: World, config: Config) -> None:
    _with_call(config, "os", "system", _touch(world))


@_evil("a function of a loaded library as a layer")
def _(world: World, config: Config) -> None:
    _with_call(config, "numpy", "savetxt", str(world.canary), [1.0])


@_evil("a download and its extraction")
def _(world: World, config: Config) -> None:
    archive = world.place() / "evil.tar"
    with tarfile.open(archive, "w") as tar:
        info = tarfile.TarInfo(f"../../../../../../../..{world.canary}")
        info.size = 1
        tar.addfile(info, io.BytesIO(b"x"))
    settings = {"origin": archive.as_uri(), "extract": True, "cache_dir": str(world.place())}
    _with_call(config, "keras.utils", "get_file", "x", **settings)


@_evil("unsafe deserialization switched on")
def _(world: World, config: Config) -> None:
    layers = config["config"]["layers"]
    _with_call(config, "keras.config", "enable_unsafe_deserialization")
    function = _function_that_writes(world)
    _with_layer(config, "Lambda", "keras.layers", function=function, arguments={})
    config["config"]["layers"] += layers


@_evil("a vocabulary elsewhere")
def _(world: World, config: Config) -> None:
    _with_layer(config, "StringLookup", "keras.layers", vocabulary=str(world.secret))


@_evil("a vocabulary at an address")
def _(world: World, config: Config) -> None:
    _with_layer(config, "StringLookup", "keras.layers", vocabulary=world.secret.as_uri())


@_evil("a pickled module of PyTorch")
def _(world: World, config: Config) -> None:
    value = pickle.dumps(_Payload(world.canary)).decode("latin-1")
    module = {"class_name": "__bytes__", "config": {"value": value}}
    _with_layer(config, "TorchModuleWrapper", "keras.layers", module=module)


@_evil("a SavedModel elsewhere")
def _(world: World, config: Config) -> None:
    path = _saved_model(str(world.canary), str(world.place()))
    _with_layer(config, "TFSMLayer", "keras.layers", filepath=path, call_endpoint="serve")


@_evil("a layer whose name leads out")
def _(world: World, config: Config) -> None:
    name = "..\\" * 30 + str(world.canary).lstrip("/").replace("/", "\\")
    vocabulary = {"vocabulary": ["a"], "name": name}
    _with_layer(config, "StringLookup", "keras.layers", **vocabulary)


@_evil("a class of a module that is not Keras's")
def _(world: World, config: Config) -> None:
    _with_layer(config, "Popen", "subprocess", args=["touch", str(world.canary)])


class _Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self._canary,)


@cache
def _saved_model(canary: str, directory: str) -> str:
    """Save a model of TensorFlow that creates a file when it is called; return its path."""
    import tensorflow as tf

    class Evil(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec((None, 3))])  # type: ignore[untyped-decorator]
        def serve(self, x: Any) -> Any:
            tf.io.write_file(canary, "x")
            return x

    tf.saved_model.save(Evil(), directory)
    return directory


def _archive(evil: _Evil) -> Callable[[World, dict[str, bytes]], bytes]:
    """Return what makes an archive of a model whose configuration is changed."""

    def make(world: World, members: dict[str, bytes]) -> bytes:
        from tests.hostile.archive_cases import zipped

        config = json.loads(members["config.json"])
        evil(world, config)
        return zipped({**members, "config.json": json.dumps(config).encode()})

    return make


def _in_checkpoint(evil: _Evil) -> Callable[[World], Target]:
    make = _archive(evil)
    return lambda world: world.forge(
        lambda directory: rezipped(directory / KERAS, lambda members: make(world, members))
    )


def _in_architecture(evil: _Evil) -> Callable[[World], Target]:
    def change(world: World, directory: Path) -> None:
        file = directory / "architecture.json"
        config = json.loads(file.read_text())
        evil(world, config)
        file.write_text(json.dumps(config))

    return lambda world: world.forge(lambda directory: change(world, directory))


def _in_h5(evil: _Evil) -> Callable[[World, Path], object]:
    def change(world: World, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            config = json.loads(file.attrs["model_config"])
            evil(world, config)
            file.attrs["model_config"] = json.dumps(config)

    return change


_YAML = "!!python/object/apply:os.system ['{}']\n"


def _yaml_in_checkpoint(world: World) -> Target:
    return world.forge(
        lambda directory: (directory / "architecture.yaml").write_text(_YAML.format(_touch(world)))
    )


def _yaml_to_import(world: World) -> Target:
    folder, architecture = world.place(), world.place() / "architecture.yaml"
    (folder / "model.01.weights.h5").write_bytes((world.honest / "model.weights.h5").read_bytes())
    architecture.write_text(_YAML.format(_touch(world)))
    return Target(folder=folder, files={"architecture": architecture})


ARCHITECTURE = ("load_architecture", "load_split", "load_weights", "restore", "$ predict")
CASES = [
    *(
        Case(f"{name} in config.json", _in_checkpoint(evil), LOADING)
        for name, evil in _EVIL.items()
    ),
    *(
        Case(f"{name} in architecture.json", _in_architecture(evil), ARCHITECTURE)
        for name, evil in _EVIL.items()
    ),
    *(
        Case(f"{name} in an imported .keras", whole_in_folder(_archive(evil)), FILES)
        for name, evil in _EVIL.items()
    ),
    *(
        Case(f"{name} in another tool's .keras", saved_by_others(_archive(evil)), FOREIGN)
        for name, evil in _EVIL.items()
    ),
    *(vessel.case(name, _in_h5(evil)) for vessel in LEGACY for name, evil in _EVIL.items()),
    Case("code in YAML", _yaml_in_checkpoint, (*LOADING, "load_architecture", "$ show")),
    Case("code in YAML to import", _yaml_to_import, FILES),
]

# The beginnings of names of cases, here and in the other modules.
KNOWN: dict[str, tuple[str, ...]] = {
    "CVE-2021-37678": ("code in YAML",),
    "CVE-2024-3660": ("bytecode in a Lambda layer in config.json",),
    "CVE-2024-55459": ("a download and its extraction",),
    "CVE-2025-1550": ("a function of os as a layer", "a function of os in a Lambda layer"),
    "CVE-2025-8747": ("a download and its extraction", "a function of a loaded library"),
    "CVE-2025-9905": ("bytecode in a Lambda layer in the .h5 form",),
    "CVE-2025-9906": ("unsafe deserialization switched on",),
    "CVE-2025-12058": ("a vocabulary elsewhere", "a vocabulary at an address"),
    "CVE-2025-12060": ("a download and its extraction",),
    "CVE-2025-12638": ("a download and its extraction",),
    "CVE-2025-49655": ("a pickled module of PyTorch",),
    "CVE-2026-0897": ("16 TB declared in the archive", "8 GiB declared in the archive"),
    "CVE-2026-1462": ("a SavedModel elsewhere",),
    "CVE-2026-1669": ("external storage",),
    "CVE-2026-9335": ("an external link", "a soft link"),
    "CVE-2026-11816": ("a name that leads out", "an absolute name"),
    "CVE-2026-12479": ("a layer whose name leads out",),
    "CVE-2026-12480": ("a virtual dataset",),
    "CVE-2026-12481": ("bytecode in a Lambda layer in architecture.json",),
    "CVE-2026-12482": ("a download and its extraction",),
    "CVE-2026-12484": ("a pickled module of PyTorch in architecture.json",),
    "CVE-2026-12570": ("1 GiB of zeros compressed", "16 TB declared in chunks"),
}  # fmt: skip
