"""`mlflow-ckpt restore`: files that stock Keras opens, whole or not at all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
import yaml

import mlflow_ckpt
from devtools.stores import Store
from tests.conftest import TrainedRun
from tests.support.checkpoints import flip_byte, save_run
from tests.support.cli import run, run_process
from tests.support.processes import run_python
from tests.support.waiting import PATIENCE_SECONDS


@pytest.fixture
def predictions(trained_run: TrainedRun) -> np.ndarray:
    return trained_run.model.predict(trained_run.x, verbose=0)


def restore(trained_run: TrainedRun, output: Path, *more: str) -> str:
    uri = trained_run.store.uri
    result = run("restore", trained_run.run_id, "--output", output, "--tracking-uri", uri, *more)
    assert result.exit_code == 0, result.output
    return result.output


def test_the_restored_file_predicts_alike_where_mlflow_ckpt_cannot_be_imported(
    trained_run: TrainedRun, predictions: np.ndarray, tmp_path: Path
) -> None:
    restore(trained_run, tmp_path / "out")
    np.save(tmp_path / "x.npy", trained_run.x)
    script = (
        "import sys; sys.modules['mlflow_ckpt'] = None; sys.modules['mlflow'] = None\n"
        "import keras, numpy as np\n"
        "model = keras.models.load_model('out/model.keras')\n"
        "np.save('y.npy', model.predict(np.load('x.npy'), verbose=0))\n"
    )
    subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, check=True, timeout=PATIENCE_SECONDS
    )
    assert np.array_equal(np.load(tmp_path / "y.npy"), predictions)


def test_restore_tells_what_it_wrote_and_what_to_do_next(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    text = restore(trained_run, tmp_path / "out")
    uri = f"ckpt:/{trained_run.run_id}/epoch_0002"
    assert f"Restored epoch_0002 of run {trained_run.run_id} to {tmp_path / 'out'}" in text
    assert f'point = mlflow_ckpt.resume("{uri}", callbacks=[...])' in text
    assert "initial_epoch=point.initial_epoch" in text
    assert f"mlflow-ckpt predict {uri} INPUT.npy" in text
    assert f'keras.models.load_model("{tmp_path / "out" / "model.keras"}")' in text
    assert sorted(item.name for item in (tmp_path / "out").iterdir()) == [
        *("architecture.json", "architecture.yaml", "fingerprint.json", "model.keras"),
    ]
    assert [item.name for item in tmp_path.iterdir()] == ["out"], "nothing else is left behind"


def test_a_uri_names_run_and_checkpoint_at_once(trained_run: TrainedRun, tmp_path: Path) -> None:
    uri = f"ckpt:/{trained_run.run_id}/1"
    result = run(
        *("restore", uri, "--output", tmp_path / "out", "--json"),
        *("--tracking-uri", trained_run.store.uri),
    )
    report = json.loads(result.output)
    assert (report["checkpoint"], report["epoch"], report["form"]) == ("epoch_0001", 1, "full")
    assert report["tensors_verified"] == len(mlflow_ckpt.fingerprint(trained_run.model).tensors)


def test_restore_as_h5_gives_the_same_predictions(
    trained_run: TrainedRun, predictions: np.ndarray, tmp_path: Path
) -> None:
    restore(trained_run, tmp_path / "out", "--format", "h5")
    model = keras.models.load_model(tmp_path / "out" / "model.h5", compile=False)
    assert np.array_equal(model.predict(trained_run.x, verbose=0), predictions)


def test_restore_an_h5_checkpoint_as_keras_keeps_the_optimizer(
    local_store: Store, tmp_path: Path
) -> None:
    x = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("adam", "mse", metrics=["mae"])
    model.fit(x, x[:, 0], verbose=0)
    run_id = save_run(model, full_format="h5")
    result = run("restore", run_id, "--format", "keras", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    stock = keras.models.load_model(tmp_path / "out" / "model.keras")
    assert mlflow_ckpt.fingerprint(stock).optimizer_digest == (
        mlflow_ckpt.fingerprint(model).optimizer_digest
    )
    stock.fit(x, x[:, 0], verbose=0)


def test_restore_as_saved_model_serves_the_same_predictions(
    trained_run: TrainedRun, predictions: np.ndarray, tmp_path: Path
) -> None:
    import tensorflow as tf

    restore(trained_run, tmp_path / "out", "--format", "saved_model")
    served = tf.saved_model.load(str(tmp_path / "out" / "saved_model"))
    np.testing.assert_allclose(served.serve(trained_run.x).numpy(), predictions, rtol=1e-5)


@pytest.mark.parametrize("forms", [("full",), ("split",), ("full", "split")])
def test_restore_the_split_form_whatever_was_saved(
    local_store: Store, tmp_path: Path, forms: tuple[str, ...]
) -> None:
    from tests.support.checkpoints import tiny_model

    model = tiny_model()
    run_id = save_run(model, forms=forms)
    result = run("restore", run_id, "--form", "split", "--output", tmp_path / "out")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "out" / "architecture.json").read_text()
    assert yaml.safe_load((tmp_path / "out" / "architecture.yaml").read_text()) == json.loads(text)
    twin = keras.models.model_from_json(text)
    twin.load_weights(tmp_path / "out" / "model.weights.h5")
    x = np.ones((2, 4), "float32")
    assert np.array_equal(twin.predict(x, verbose=0), model.predict(x, verbose=0))
    with h5py.File(tmp_path / "out" / "model.weights.h5") as file:
        assert "optimizer" not in file


def test_restore_takes_the_split_form_where_there_is_no_other(
    local_store: Store, tmp_path: Path
) -> None:
    run_id = save_run(forms=("split",))
    report = json.loads(run("restore", run_id, "--output", tmp_path / "out", "--json").output)
    assert report["form"] == "split"
    for arguments in (("--form", "full"), ("--format", "h5")):
        result = run("restore", run_id, "--output", tmp_path / "other", *arguments)
        assert (result.exit_code, result.output) == (
            3,
            "Error: The checkpoint epoch_0001 holds the split form only. "
            "Restore it with --form split.\n",
        )


def test_a_directory_in_the_way_is_left_alone(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run()
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("precious")
    result = run("restore", run_id, "--output", output)
    assert (result.exit_code, result.output) == (
        6,
        f"Error: The output directory {output} exists and is not empty. Name another with "
        "--output, or pass --overwrite to replace files of the same names.\n",
    )
    assert [item.name for item in output.iterdir()] == ["mine.txt"]


def test_overwrite_replaces_files_of_the_same_names_only(
    local_store: Store, tmp_path: Path
) -> None:
    run_id = save_run()
    output = tmp_path / "out"
    output.mkdir()
    (output / "mine.txt").write_text("precious")
    (output / "model.keras").write_text("old")
    assert run("restore", run_id, "--output", output, "--overwrite").exit_code == 0
    assert (output / "mine.txt").read_text() == "precious"
    keras.models.load_model(output / "model.keras", compile=False)


def test_a_damaged_checkpoint_leaves_no_output(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run()
    flip_byte(local_store.checkpoint_directory(run_id, "epoch_0001") / "data/model.keras", 5000)
    result = run("restore", run_id, "--output", tmp_path / "out")
    assert result.exit_code == 4
    assert result.output.startswith("Error: The checkpoint is not what was saved: epoch_0001: ")
    assert "data/model.keras has sha256:" in result.output
    assert list(tmp_path.iterdir()) == []


def test_a_read_only_place_is_told_in_one_sentence(local_store: Store) -> None:
    # /proc refuses directories even to the superuser, whom permission bits do not stop.
    run_id = save_run()
    result = run("restore", run_id, "--output", "/proc/out")
    assert result.exit_code == 6
    assert result.output.startswith("Error: The output directory /proc/out cannot be written: ")
    assert result.output.count("\n") == 1


def test_a_full_disk_leaves_nothing_behind(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run()
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from mlflow_ckpt._cli import main\n"
        "import keras\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"main(['restore', {run_id!r}, '--output', 'out'])\n"
    )
    result = run_python(
        script,
        cwd=tmp_path,
    )
    assert result.returncode == 6, result.stderr
    assert "Error: The output directory out cannot be written:" in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_form_split_and_a_format_contradict_each_other(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    result = run(
        *("restore", trained_run.run_id, "--form", "split", "--format", "h5"),
        *("--output", tmp_path / "out"),
    )
    assert result.exit_code == 2
    assert "--format is the file format of the full form" in result.output


def test_the_command_works_in_a_process_of_its_own(trained_run: TrainedRun, tmp_path: Path) -> None:
    result = run_process(
        *("restore", trained_run.run_id, "--checkpoint", "best", "--output", "out"),
        *("--tracking-uri", trained_run.store.uri),
        cwd=tmp_path,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "out" / "model.keras").is_file()


def test_overwrite_never_deletes_what_it_does_not_replace(
    trained_run: TrainedRun, tmp_path: Path
) -> None:
    (tmp_path / "out" / "saved_model").mkdir(parents=True)
    precious = tmp_path / "out" / "saved_model" / "precious.txt"
    precious.write_text("mine")
    arguments = (
        *("restore", trained_run.run_id, "--output", tmp_path / "out", "--overwrite"),
        *("--format", "saved_model", "--tracking-uri", trained_run.store.uri),
    )
    refused = run(*arguments)
    assert refused.exit_code == 6
    assert f"{precious} is in the way." in refused.output
    assert precious.read_text() == "mine"
    assert [item.name for item in (tmp_path / "out").iterdir()] == ["saved_model"]
    precious.unlink()
    assert run(*arguments).exit_code == 0
    assert run(*arguments).exit_code == 0, "its own output is replaced"
    assert sorted(item.name for item in tmp_path.iterdir()) == ["out"]


def test_a_signal_to_end_leaves_nothing_behind(local_store: Store, tmp_path: Path) -> None:
    run_id = save_run()
    script = (
        "import os, signal, sys\n"
        "from mlflow_ckpt._cli import main\n"
        "from mlflow_ckpt._cli.commands import cmd_restore\n"
        # The moment of the signal is fixed: between the staging and the move.
        "cmd_restore.move = lambda *_: os.kill(os.getpid(), signal.SIGTERM)\n"
        f"main(['restore', {run_id!r}, '--output', 'out'])\n"
    )
    (tmp_path / "temporary").mkdir()
    result = run_python(
        script,
        cwd=tmp_path,
        env={**os.environ, "TMPDIR": str(tmp_path / "temporary")},
    )
    assert result.returncode == 128 + signal.SIGTERM, result.stderr
    assert not list(tmp_path.glob("**/*mlflow_ckpt*"))
    assert sorted(item.name for item in tmp_path.iterdir()) == ["temporary"]


def test_a_backend_that_is_not_installed_is_named(
    local_store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = save_run()
    monkeypatch.setenv("KERAS_BACKEND", "nonsense")
    # The backend is chosen when Keras is imported.
    result = subprocess.run(
        [sys.executable, "-m", "mlflow_ckpt._cli", "restore", run_id, "--output", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_SECONDS,
    )
    assert result.returncode == 5
    assert result.stderr.startswith("Error: Keras cannot start its backend 'nonsense': ")
    assert list(tmp_path.iterdir()) == []
