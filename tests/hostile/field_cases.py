"""Files of JSON and YAML whose fields are of other types, out of range, huge, deep, or disagree."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml
from mlflow.tracking import MlflowClient

from tests.hostile.entry_points import EVERY, FILES, LOADING, READING
from tests.hostile.harness import Case
from tests.hostile.world import Target, World

STATE, PRINT, DESIGN = "training_state.json", "fingerprint.json", "architecture.json"
_STATE = ("load_model", "load_split", "load_weights", "resume", "restore", "$ restore", "verify")
_PRINT = ("load_model", "restore", "diff", "$ show", "$ report", "$ verify")
_DESIGN = ("load_model", "load_architecture", "diff", "$ report", "$ restore")
Content = dict[str, Any]
Edit = Callable[[Content], object]

_DEEP = '{"a": ' * 100_000 + "1" + "}" * 100_000
_NESTED = "[" * 900 + "]" * 900
_WRONG: list[Any] = [
    *("x", -1, 1.5, None, True, [], {}, [None], {"a": None}, 10**30, float("nan"), [[[[]]]]),
]
_TEXTS: dict[str, str] = {
    "deep": _DEEP,
    "nested": f'{{"schema_version": 1, "epoch": {_NESTED}}}',
    "brackets alone": "[" * 500_000,
    "a list": "[]",
    "a number": "7",
    "nothing": "",
    "no JSON": "{",
    "half a character": '{"schema_version": 1, "x": "\\ud800"}',
    "huge digits": '{"schema_version": ' + "9" * 100_000 + "}",
    "a huge version": '{"schema_version": 1e999}',
    "a version of text": '{"schema_version": "1"}',
    "bytes that are no text": "\udcff\udcfe",
    "many commas": "[" + "1," * 6_000_000 + "1]",
}


def _write(path: Path, text: str) -> None:
    path.write_bytes(text.encode("utf-8", "surrogateescape"))


def _edited(path: str, edit: Edit) -> Callable[[World], Target]:
    """Return what makes a checkpoint with a file of JSON that was edited."""

    def change(directory: Path) -> None:
        content = json.loads((directory / path).read_text())
        edit(content)
        (directory / path).write_text(json.dumps(content))

    return lambda world: world.forge(change)


def _set(*keys: str | int, to: Any) -> Edit:
    def edit(content: Any) -> None:
        *path, last = keys
        for key in path:
            content = content[key]
        content[last] = to

    return edit


def _texts() -> Iterator[Case]:
    for path, entry_points in ((STATE, _STATE), (PRINT, _PRINT), (DESIGN, _DESIGN)):
        for name, text in _TEXTS.items():

            def change(directory: Path, path: str = path, text: str = text) -> None:
                _write(directory / path, text)

            yield Case(
                f"{name} in {path}",
                lambda world, change=change: world.forge(change),  # type: ignore[misc]
                entry_points,
            )


def _manifests() -> Iterator[Case]:
    for name, text in _TEXTS.items():

        def make(world: World, text: str = text) -> Target:
            target = world.forge(lambda _: None)
            _write(target.watched[0] / "checkpoints" / "epoch_0001" / "manifest.json", text)
            return target

        yield Case(f"{name} in manifest.json", make, READING)
    fields = (
        *("epoch", "step", "created", "forms", "full_format", "metrics", "monitor", "files"),
        *("versions", "lineage", "metadata", "weights_digest", "schema_version", "interrupted"),
    )
    for field in fields:
        for number, value in enumerate(_WRONG):

            def make_field(world: World, field: str = field, value: Any = value) -> Target:
                return world.forge(lambda _: None, seal=_set(field, to=value))

            entry_points = ("load_model", "verify", "$ list") if number % 4 else EVERY
            yield Case(f"{field} = {value!r:.20} in manifest.json", make_field, entry_points)


def _paths() -> Iterator[Case]:
    for path in ("../x", "/etc/passwd", "a\\..\\x", "", ".", "a\0b", "x" * 5000, "data/../../x"):

        def seal(manifest: Content, path: str = path) -> None:
            manifest["files"][path] = {"size": 1, "digest": "sha256:" + "0" * 64}

        yield Case(
            f"the file {path!r:.20} in manifest.json",
            lambda world, seal=seal: world.forge(lambda _: None, seal=seal),  # type: ignore[misc]
            (*LOADING, "$ verify"),
        )


_STATE_FIELDS = (
    *("epoch", "step", "batch", "steps", "epochs", "dtype_policy", "keras_config"),
    *("compile_config", "compile_before", "compile", "optimizers", "layers", "random", "metrics"),
    *("validation_pending", "dropped", "callbacks", "unsaved", "stopped", "data", "data_state"),
    *("fit", "code", "settings", "state", "attributes", "attributes_before", "arrays"),
)
_STATE_EDITS: dict[str, Edit] = {
    "another run in the settings": _set("settings", to={"run_id": "another", "monitor": "loss"}),
    "settings of other types": _set("settings", to={"forms": 3, "drain_timeout": "x"}),
    "a retention of nothing": _set("settings", to={"retention": {"LatestN": {"n": -1}}}),
    "a deep retention": _set("settings", to={"retention": {"AnyOf": [{"AnyOf": []}]}}),
    "beside of numbers": _set("settings", to={"beside": [1, 2]}),
    "an unknown policy": _set("dtype_policy", to="no_such_policy"),
    "a policy of code": _set("dtype_policy", to="__import__('os')"),
    "an unknown float type": _set(
        "keras_config", to={"floatx": "O", "epsilon": 1, "image_data_format": "channels_last"}
    ),
    "an attribute of a class": _set("attributes", to={"__class__": 1, "layers/0/__dict__": 2}),
    "globals of a method": _set("attributes", to={"call/__globals__/x": 1}),
    "a method replaced": _set("attributes", to={"predict": "x", "layers/0/call": 1}),
    "a setting that is a method": _set("compile", "settings", to={"fit": True}),
    "a missing array": _set("metrics", to=[{"$array": "nothing"}]),
    "an array of a strange dtype": _set("metrics", to=[{"$array": ["x", "finfo"]}]),
    "a variable that is text": _set(
        "state", to=[{"path": "layers/0/kernel", "kind": "variable", "value": "x"}]
    ),
    "an adapter of a huge rank": _set(
        "state",
        to=[
            {
                "path": "layers/0",
                "kind": "adaptation",
                "value": {"quantized": None, "rank": 10**12, "alpha": 1},
            }
        ],
    ),
    "an adapter without a rank": _set(
        "state", to=[{"path": "layers/0", "kind": "adaptation", "value": {}}]
    ),
    "settings of a variable that are code": _set(
        "state",
        to=[
            {
                "path": "",
                "kind": "settings",
                "value": {
                    "layers/0/kernel": {
                        "regularizer": {
                            "module": "builtins",
                            "class_name": "function",
                            "config": "system",
                            "registered_name": "function",
                        }
                    }
                },
            }
        ],
    ),
    "an unknown kind of state": _set("state", to=[{"path": "a", "kind": "z", "value": 0}]),
    "a thousand levels of tuples": _set("random", to=[{"$tuple": [{"$items": [[1]]}]}]),
    "a state of EarlyStopping that is text": _set(
        "callbacks", to={"EarlyStopping/0": {"wait": "x", "best": [1]}}
    ),
    "a position of data that is text": _set(
        "data_state", to={"kind": 3, "pass": "x", "batch": -1, "persists": 0}
    ),
    "a random state of nothing": _set("random", to={"python": [1, 2, 3], "numpy": {}, "os": 1}),
    "an optimizer of another class": _set("optimizers", to={"optimizer": {"class": 1}}),
    "compile settings of a lambda": _set(
        "compile_config", "loss", to={"class_name": "__lambda__", "config": {"value": "x"}}
    ),
    "compile settings of a function of os": _set(
        "compile_config",
        "loss",
        to={
            "module": "os",
            "class_name": "function",
            "config": "system",
            "registered_name": "function",
        },
    ),
}


def _states() -> Iterator[Case]:
    for field in _STATE_FIELDS:
        for value in _WRONG[:9] if field in ("epoch", "batch") else _WRONG[:3] + _WRONG[7:9]:
            edit = _set(field, to=value)
            name = f"{field} = {value!r:.20} in {STATE}"
            yield Case(name, _edited(STATE, edit), ("load_model", "resume", "restore"))
    for name, edit in _STATE_EDITS.items():
        yield Case(f"{name} in {STATE}", _edited(STATE, edit), _STATE)


_PRINT_FIELDS = (
    "name",
    "layer",
    "variable",
    "role",
    "shape",
    "dtype",
    "digest",
    "mean",
    "nan_count",
)
_DTYPES = ("O", "object", "finfo", "void0", "S10", "float31", "V8", "datetime64[s]", "<f4", "U0")


def _prints() -> Iterator[Case]:
    for field in _PRINT_FIELDS:
        for value in _WRONG:
            edit = _set("tensors", 0, field, to=value)
            yield Case(f"{field} = {value!r:.20} in {PRINT}", _edited(PRINT, edit), _PRINT[2:])
    for dtype in _DTYPES:
        edit = _set("tensors", 0, "dtype", to=dtype)
        yield Case(f"dtype {dtype!r} in {PRINT}", _edited(PRINT, edit), _PRINT)
    edits: dict[str, Edit] = {
        "a tensor twice": lambda content: content["tensors"].append(content["tensors"][0]),
        "no tensors": _set("tensors", to=[]),
        "a huge shape": _set("tensors", 0, "shape", to=[2**40, 2**40]),
        "the weights as the optimizer's": _set("tensors", 0, "role", to="optimizer"),
    }
    for name, edit in edits.items():
        yield Case(f"{name} in {PRINT}", _edited(PRINT, edit), _PRINT)


def _designs() -> Iterator[Case]:
    edits: dict[str, Edit] = {
        "a function of os": _set(
            "config", "layers", 1, "config", "activation",
            to={"module": "os", "class_name": "function", "config": "system",
                "registered_name": "function"},
        ),
        "layers that are numbers": _set("config", "layers", to=[1, 2, 3]),
        "no class": lambda content: content.pop("class_name"),
        "a class of text": _set("class_name", to=["x"]),
        "a unit count of 10**12": _set("config", "layers", 1, "config", "units", to=10**12),
        "a negative unit count": _set("config", "layers", 1, "config", "units", to=-3),
        "units of text": _set("config", "layers", 1, "config", "units", to="x"),
        "names that are numbers": _set("config", "layers", 1, "config", "name", to=7),
        "shapes of text": _set("config", "layers", 0, "config", "batch_shape", to="abc"),
        "a config that is null": _set("config", to=None),
    }  # fmt: skip
    for name, edit in edits.items():
        yield Case(f"{name} in {DESIGN}", _edited(DESIGN, edit), _DESIGN)


def _laughs(levels: int = 12) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        names = ", ".join([f"*a{level - 1}"] * 10)
        lines.append(f"a{level}: &a{level} [{names}]")
    return "\n".join(lines) + "\n"


_YAML: dict[str, str] = {
    "billion laughs": f"flavors: {{keras: {{data: data}}}}\n{_laughs()}",
    "an alias": "a: &a {keras: {data: data}}\nflavors: *a\n",
    "an alias of itself": "flavors: &a {keras: *a}\n",
    "merged aliases": "a: &a {b: 1}\nflavors: {<<: *a}\n",
    "deep YAML": "[" * 100_000,
    "deep blocks": "\n".join(" " * level + f"a{level}:" for level in range(1500)),
    "code": "flavors: !!python/object/apply:os.system ['true']\n",
    "a long number to the base of 60": "flavors: 1" + ":1" * 200_000 + "\n",
    "a long number": "flavors: " + "9" * 100_000 + "\n",
    "flavors of text": "flavors: keras\n",
    "flavors of numbers": "flavors: {keras: 3, tensorflow: [1]}\n",
    "data that leads out": "flavors: {keras: {data: ../../../../etc}}\n",
    "data of numbers": "flavors: {keras: {data: 7}}\n",
    "keys that are lists": "flavors: {? [1] : 2}\n",
    "a date that is none": "flavors: 2020-99-99\n",
    "several documents": "flavors: 1\n---\nflavors: 2\n",
    "no YAML": "{",
    "a zero byte": "flavors: \0\n",
}


def _mlmodels() -> Iterator[Case]:
    for name, text in _YAML.items():

        def ours(world: World, text: str = text) -> Target:
            return world.forge(lambda directory: _write(directory / "MLmodel", text))

        def others(world: World, text: str = text) -> Target:
            run_id = world.new_run()
            _write_model(world.artifacts(run_id) / "model", text)
            history = json.dumps([{"artifact_path": "model", "flavors": {"keras": {}}}])
            MlflowClient().set_tag(run_id, "mlflow.log-model.history", history)
            return Target(f"runs:/{run_id}/model")

        yield Case(f"{name} in MLmodel", ours, ("load_model", "$ verify", "$ register", "$ list"))
        yield Case(f"{name} in another tool's MLmodel", others, ("load_any", "$ list", "$ diff"))
        yield Case(f"{name} as --architecture", _architecture(text, ".yaml"), FILES)
    for name, text in _TEXTS.items():
        yield Case(f"{name} as --architecture of JSON", _architecture(text, ".json"), FILES)


def _write_model(directory: Path, text: str) -> None:
    directory.mkdir()
    _write(directory / "MLmodel", text)


def _architecture(text: str, ending: str) -> Callable[[World], Target]:
    def make(world: World) -> Target:
        folder, path = world.place(), world.place() / f"a{ending}"
        (folder / "model.01.weights.h5").write_bytes(
            (world.honest / "model.weights.h5").read_bytes()
        )
        _write(path, text)
        return Target(folder=folder, files={"architecture": path})

    return make


_HISTORIES = {
    **_TEXTS,
    "a path that leads out": json.dumps([{"artifact_path": "../..", "flavors": {"keras": {}}}]),
    "a path of numbers": json.dumps([{"artifact_path": 3, "flavors": {"keras": {}}}]),
    "flavors of text": json.dumps([{"artifact_path": "m", "flavors": "keras"}]),
}


def _tags() -> Iterator[Case]:
    for tag in ("mlflow.log-model.history", "mlflow.loggedArtifacts", "mlflow_ckpt.resumed_from"):
        for name, text in _HISTORIES.items():
            if len(text) > 5000 or "\udcff" in text:
                text = text[:4000].replace("\udcff", "x").replace("\udcfe", "x")

            def make(world: World, tag: str = tag, text: str = text) -> Target:
                target = world.forge(lambda _: None)
                if text:
                    MlflowClient().set_tag(target.run, tag, text)
                return target

            yield Case(f"{name} in the tag {tag}", make, ("$ list", "load_any", "$ report"))


def _indexes() -> Iterator[Case]:
    for name, text in _TEXTS.items():

        def make(world: World, text: str = text) -> Target:
            target = world.forge(lambda _: None)
            _write(target.watched[0] / "checkpoints" / "manifests.json", text)
            return target

        yield Case(f"{name} in the index", make, ("$ list", "load_model"))


def _metrics_of_others() -> Iterator[Case]:
    texts = {
        **_TEXTS,
        "a huge epoch": '{"epoch": 1e308, "global_step": 1e308}',
        "an epoch of digits": '{"epoch": ' + "9" * 4000 + "}",
        "an epoch that is not finite": '{"epoch": NaN, "val_loss": Infinity}',
    }
    for name, text in texts.items():

        def make(world: World, text: str = text) -> Target:
            run_id = world.new_run()
            directory = world.artifacts(run_id) / "checkpoints" / "epoch_0"
            directory.mkdir(parents=True)
            (directory / "checkpoint.keras").write_bytes(
                (world.honest / "data" / "model.keras").read_bytes()
            )
            _write(directory / "checkpoint_metrics.json", text)
            return Target(run_id)

        yield Case(f"{name} in metrics of another tool", make, ("$ list", "load_any"))


def _swapped() -> Iterator[Case]:
    """Checkpoints of another run, or under another name, with manifests that fit somewhere."""
    refused = ("load_model", "resume", "$ verify", "$ restore", "$ register", "$ show")

    def of_another_run(world: World) -> Target:
        target, other = world.forge(lambda _: None), world.new_run()
        (target.watched[0] / "checkpoints").rename(world.artifacts(other) / "checkpoints")
        return Target(other, watched=[world.artifacts(other)])

    def under_another_name(world: World) -> Target:
        return world.forge(lambda _: None, name="epoch_0007")

    def renamed_in_the_manifest(world: World) -> Target:
        def seal(manifest: Content) -> None:
            manifest.update(name="epoch_0007", epoch=7)

        return world.forge(lambda _: None, name="epoch_0007", seal=seal)

    def another_run_in_mlmodel(world: World) -> Target:
        def change(directory: Path) -> None:
            content = yaml.safe_load((directory / "MLmodel").read_text())
            content["run_id"] = "0" * 32
            (directory / "MLmodel").write_text(yaml.safe_dump(content))

        return world.forge(change)

    def another_architecture(world: World) -> Target:
        edit = _set("config", "layers", 1, "config", "activation", to="relu")
        return _edited(DESIGN, edit)(world)

    def other_weights(world: World) -> Target:
        return world.forge(lambda _: None, seal=_set("weights_digest", to="sha256:" + "0" * 64))

    def listed_fresh(path: str, template: str) -> Callable[[World], Target]:
        """An optimizer's tensors in a checkpoint that says it has none: they would pass."""

        def make(world: World) -> Target:
            fresh = getattr(world, template)
            source = world.honest_h5 if path.endswith(".h5") else world.honest
            return world.forge(
                lambda directory: (directory / path).write_bytes((source / path).read_bytes()),
                template=fresh,
            )

        return make

    says = ("another", "belongs", "not that", "not the", "epoch", "only", "none")
    yield Case("a checkpoint of another run", of_another_run, refused, says)
    yield Case("a checkpoint under another name", under_another_name, refused, says)
    yield Case("an older checkpoint renamed", renamed_in_the_manifest, refused[:4], says)
    yield Case("another run in its MLmodel", another_run_in_mlmodel, refused[:4], says)
    yield Case("an architecture of another", another_architecture, refused[:4], says)
    yield Case("weights of another in the manifest", other_weights, refused[:4], says)
    loading = ("load_model", "resume", "restore", "$ restore", "$ verify")
    keras, h5 = listed_fresh("data/model.keras", "fresh"), listed_fresh("data/model.h5", "fresh_h5")
    yield Case("an optimizer that nothing lists in a .keras", keras, loading, says)
    yield Case("an optimizer that nothing lists in an .h5", h5, loading, says)


def _refusing() -> Iterator[Case]:
    yield from _texts()
    yield from _manifests()
    yield from _paths()
    yield from _states()
    yield from _prints()
    yield from _designs()
    yield from _mlmodels()
    yield from _tags()
    yield from _indexes()
    yield from _metrics_of_others()
    yield from _swapped()


CASES = list(_refusing())
