"""Files that Keras's own ModelCheckpoint saved become checkpoints of a run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._format.file_names import read_names
from mlflow_ckpt.errors import InvalidArgumentError, RunNotFoundError
from tests.support import cli
from tests.support.training import BATCHES, X, fit, names, new_run, small_model

TEMPLATES = {
    "keras": "model.{epoch:02d}-{val_loss:.4f}.keras",
    "h5": "model.{epoch:02d}-{val_loss:.4f}.h5",
    "weights": "model.{epoch:02d}-{val_loss:.4f}.weights.h5",
}
pytestmark = pytest.mark.filterwarnings("ignore:.*HDF5 file via")


@dataclass(frozen=True)
class Saved:
    """What Keras's own callback saved in a training of two epochs. Copy it, never change it.

    Attributes:
        files: The files of each kind, epoch by epoch.
        values: The validation loss, epoch by epoch.
        weights: The weights after the last epoch.
        predicted: Predictions after one more epoch.
    """

    files: dict[str, list[Path]]
    values: list[float]
    weights: list[np.ndarray[Any, Any]]
    predicted: np.ndarray[Any, Any]

    def copy(self, directory: Path, template: str, epochs: int = 2) -> None:
        """Copy the files of the first epochs under the names that a template makes."""
        (kind,) = (
            kind for kind in ("weights.h5", "keras", "h5") if template.endswith(f"}}.{kind}")
        )
        for epoch, (file, value) in enumerate(zip(self.files[kind], self.values, strict=True), 1):
            if epoch <= epochs:
                shutil.copy(file, directory / template.format(epoch=epoch, val_loss=value))


def train(directory: Path, *kinds: str) -> Saved:
    model = small_model()
    fit(
        model,
        *(
            keras.callbacks.ModelCheckpoint(
                directory / f"{{epoch}}.{kind}", save_weights_only=kind == "weights.h5"
            )
            for kind in kinds
        ),
    )
    values, weights = model.history.history["val_loss"], model.get_weights()
    go_on(model)
    files = {kind: [directory / f"{epoch}.{kind}" for epoch in (1, 2)] for kind in kinds}
    return Saved(files, values, weights, model.predict(X, verbose=0))


def go_on(model: keras.Model) -> None:
    """Train the third epoch."""
    fit(model, epochs=3, initial_epoch=2, shuffle=False, validation_data=None)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Whole models in Keras's format, and weights."""
    return train(tmp_path_factory.mktemp("keras"), "keras", "weights.h5")


@pytest.fixture(scope="module")
def saved_h5(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Whole models as HDF5, which takes the optimizer out of what Keras saves later."""
    return train(tmp_path_factory.mktemp("h5"), "h5")


def require_weights(model: keras.Model, weights: list[np.ndarray[Any, Any]]) -> None:
    for one, other in zip(model.get_weights(), weights, strict=True):
        assert np.array_equal(one, other)


@pytest.mark.parametrize("kind", ["keras", "h5"])
def test_whole_models(
    kind: str, store: Store, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    saved: Saved = request.getfixturevalue("saved_h5" if kind == "h5" else "saved")
    saved.copy(tmp_path, TEMPLATES[kind])
    run_id = new_run()
    done = mlflow_ckpt.import_checkpoints(tmp_path, run_id=run_id, pattern=TEMPLATES[kind])
    assert [(result.checkpoint, result.outcome, result.remark) for result in done] == [
        ("epoch_0001", "imported", None),
        ("epoch_0002", "imported", None),
    ]
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    assert mlflow_ckpt.verify(run_id).ok
    manifest = mlflow_ckpt.get_checkpoint(run_id, "best").manifest
    assert manifest.metrics == {"val_loss": pytest.approx(manifest.metrics["val_loss"])}
    assert manifest.metadata == {"imported_from": done[-1].file}
    assert manifest.step == 2 * BATCHES
    # With the optimizer: it trains on as the live one does.
    loaded = mlflow_ckpt.load_model(run_id, 2)
    require_weights(loaded, saved.weights)
    go_on(loaded)
    assert np.allclose(loaded.predict(X, verbose=0), saved.predicted, atol=1e-6)


@pytest.mark.parametrize("kind", [".json", ".yaml", ".keras"])
def test_weights_with_an_architecture(
    kind: str, saved: Saved, local_store: Store, tmp_path: Path
) -> None:
    saved.copy(tmp_path, TEMPLATES["weights"])
    model = small_model()
    file = tmp_path.parent / f"{tmp_path.name}{kind}"
    if kind == ".json":
        file.write_text(model.to_json())
    elif kind == ".yaml":
        import json

        import yaml

        file.write_text(yaml.safe_dump(json.loads(model.to_json())))
    else:
        model.save(file)
    run_id = new_run()
    done = mlflow_ckpt.import_checkpoints(
        tmp_path, run_id=run_id, pattern=TEMPLATES["weights"], architecture=file
    )
    assert [result.outcome for result in done] == ["imported", "imported"], done
    loaded = mlflow_ckpt.load_model(run_id, 2)
    require_weights(loaded, saved.weights)


def test_metrics_are_points_of_the_run_and_of_the_models_table(
    store: Store, saved: Saved, tmp_path: Path
) -> None:
    saved.copy(tmp_path, "m-epoch{epoch:02d}-val_loss{val_loss:.4f}.keras")
    run_id = new_run()
    mlflow_ckpt.import_checkpoints(tmp_path, run_id=run_id)
    points = MlflowClient().get_metric_history(run_id, "val_loss")
    metrics = {c.manifest.epoch: c.manifest.metrics for c in mlflow_ckpt.list_checkpoints(run_id)}
    assert {point.step: {"val_loss": point.value} for point in points} == metrics
    rows = MlflowClient().search_logged_models(
        [store.experiment_id], filter_string=f"source_run_id = '{run_id}'"
    )
    assert sorted(m.value for row in rows for m in row.metrics) == sorted(p.value for p in points)


def test_a_second_import_skips_what_is_there(
    local_store: Store, saved: Saved, tmp_path: Path
) -> None:
    saved.copy(tmp_path, "model.{epoch:02d}.keras")
    run_id = new_run()
    mlflow_ckpt.import_checkpoints(tmp_path, run_id=run_id)
    before = [c.manifest for c in mlflow_ckpt.list_checkpoints(run_id)]
    done = mlflow_ckpt.import_checkpoints(tmp_path, run_id=run_id)
    assert [result.outcome for result in done] == ["already there", "already there"]
    assert [c.manifest for c in mlflow_ckpt.list_checkpoints(run_id)] == before


def test_another_checkpoint_of_that_name_is_never_overwritten(
    local_store: Store, saved: Saved, tmp_path: Path
) -> None:
    saved.copy(tmp_path, "model.{epoch:02d}.keras", epochs=1)
    run_id = new_run()
    mlflow_ckpt.import_checkpoints(tmp_path, run_id=run_id)
    before = mlflow_ckpt.get_checkpoint(run_id).manifest
    small_model(units=5).save(tmp_path / "model.01.keras")
    (failed,) = mlflow_ckpt.import_checkpoints(tmp_path, run_id=run_id)
    assert failed.outcome == "failed"
    assert "never overwritten" in str(failed.remark)
    assert mlflow_ckpt.get_checkpoint(run_id).manifest == before


@pytest.mark.parametrize("name", ["model.01.keras", "model.01.h5", "model.01.weights.h5"])
def test_a_file_that_is_cut_off(local_store: Store, tmp_path: Path, name: str) -> None:
    small_model().save(tmp_path / "architecture.keras")
    folder = tmp_path / "files"
    folder.mkdir()
    (folder / name).write_bytes(b"")
    run_id = new_run()
    (failed,) = mlflow_ckpt.import_checkpoints(
        folder, run_id=run_id, architecture=tmp_path / "architecture.keras"
    )
    assert failed.outcome == "failed"
    assert "Is it truncated or empty? Received: 0 bytes" in str(failed.remark)
    assert names(run_id) == []


def outcomes(output: str) -> list[str]:
    return [line.partition("): ")[2].partition(":")[0] for line in output.splitlines()]


def test_the_command(local_store: Store, saved: Saved, tmp_path: Path) -> None:
    saved.copy(tmp_path, TEMPLATES["keras"])
    (tmp_path / "notes.txt").write_text("not a model")
    (tmp_path / "model.09-0.1000.keras").write_bytes(b"broken")
    run_id = new_run()
    arguments = ("import", tmp_path, "--run-id", run_id, "--pattern", TEMPLATES["keras"])
    planned = cli.run(*arguments, "--dry-run")
    assert planned.exit_code == 5
    assert outcomes(planned.output) == ["would be imported", "would be imported", "failed"]
    assert names(run_id) == []
    done = cli.run(*arguments)
    assert done.exit_code == 5
    assert outcomes(done.output) == ["imported", "imported", "failed"]
    lines = done.output.splitlines()
    assert lines[2] == (
        "model.09-0.1000.keras -> epoch_0009 (epoch 9, val_loss 0.1): failed: "
        "model.09-0.1000.keras is not a zip archive, as Keras writes it. "
        "Is it truncated or empty? Received: 6 bytes"
    )
    assert names(run_id) == ["epoch_0001", "epoch_0002"]
    again = cli.run(*arguments, "--dry-run")
    assert outcomes(again.output) == ["already there", "already there", "failed"]


@pytest.mark.parametrize(
    ("files", "pattern", "said"),
    [
        ([], None, "holds no file that ModelCheckpoint saves"),
        (["best.keras"], None, "does not show which number is the epoch"),
        (["model-03-0.4521.keras"], None, "does not show what 0.4521 is"),
        (["a_1.keras", "b_1.keras"], None, "Two files have epoch 1: a_1.keras and b_1.keras"),
        (["a_1.keras"], "b_{epoch}.keras", "matches the pattern 'b_{epoch}.keras'"),
        (["a_1.keras"], "a_{val_loss}.keras", "has no {epoch}"),
        (["a_1.keras"], "a_{epoch.keras", "was not understood"),
    ],
)
def test_names_that_do_not_tell(
    files: list[str], pattern: str | None, said: str, local_store: Store, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    with pytest.raises(InvalidArgumentError) as caught:
        mlflow_ckpt.import_checkpoints(tmp_path, run_id=new_run(), pattern=pattern)
    assert said in str(caught.value)


def test_other_things_that_are_not_there(local_store: Store, saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="Expected a folder"):
        mlflow_ckpt.import_checkpoints(tmp_path / "nowhere", run_id=new_run())
    saved.copy(tmp_path, "model.{epoch:02d}.weights.h5", epochs=1)
    with pytest.raises(RunNotFoundError):
        mlflow_ckpt.import_checkpoints(tmp_path, run_id="nosuchrun")
    (failed,) = mlflow_ckpt.import_checkpoints(tmp_path, run_id=new_run())
    assert "--architecture FILE" in str(failed.remark)


METRICS = st.dictionaries(
    st.sampled_from(["loss", "val_loss", "accuracy", "val_acc"]), st.floats(0, 99), max_size=3
)


@given(st.integers(1, 9999), METRICS)
def test_what_a_pattern_writes_it_reads(epoch: int, metrics: dict[str, float]) -> None:
    pattern = "run7-{epoch:04d}" + "".join(f"-{{{name}:.3f}}" for name in metrics) + ".keras"
    (parsed,) = read_names([pattern.format(epoch=epoch, **metrics)], pattern)
    assert parsed.epoch == epoch
    assert parsed.metrics == {k: pytest.approx(v, abs=1e-3) for k, v in metrics.items()}


@given(st.integers(0, 9999), METRICS, st.sampled_from(["_", "-", ".", "="]))
def test_names_with_words_tell_by_themselves(
    epoch: int, metrics: dict[str, float], separator: str
) -> None:
    parts = [f"epoch{separator}{epoch:03d}"]
    parts += [f"{name}{separator}{value:.3f}" for name, value in metrics.items()]
    (parsed,) = read_names([f"resnet50-{'-'.join(parts)}.weights.h5"])
    assert parsed.epoch == epoch
    assert parsed.metrics == {k: pytest.approx(v, abs=1e-3) for k, v in metrics.items()}


def test_an_h5_file_whose_optimizer_does_not_fit_is_imported_without_it(
    local_store: Store, saved_h5: Saved, tmp_path: Path
) -> None:
    import h5py

    saved_h5.copy(tmp_path, "model.{epoch:02d}.h5", epochs=1)
    with h5py.File(tmp_path / "model.01.h5", "a") as file:
        del file["optimizer_weights"]
    run_id = new_run()
    (done,) = mlflow_ckpt.import_checkpoints(tmp_path, run_id=run_id)
    assert done.outcome == "imported"
    assert str(done.remark).startswith("without its compile settings and optimizer (")
    assert mlflow_ckpt.verify(run_id).ok
    shutil.rmtree(tmp_path)
