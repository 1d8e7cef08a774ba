"""What goes between the moment it is listed and the moment it is read is gone, and no error.

Another process sends, flushes or prunes exactly then: by hand between the two steps, or where a
function is called.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt import LatestN
from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.reference import Query, Selector
from mlflow_ckpt._format.verification import read_manifest, verify_directory
from mlflow_ckpt._loading.newest_valid import open_for_resume
from mlflow_ckpt._saving.overwrites import check_no_overwrite
from mlflow_ckpt._saving.saver import CheckpointSaver
from mlflow_ckpt._tracking import prune_plan, removal
from mlflow_ckpt._tracking.catalog import Catalog
from mlflow_ckpt._tracking.find import find
from mlflow_ckpt._tracking.spool import sending
from mlflow_ckpt._tracking.spool.spool_directory import Spool
from mlflow_ckpt._tracking.store import RunStore
from mlflow_ckpt._tracking.ui import logged_models
from mlflow_ckpt.errors import (
    CheckpointExistsError,
    CheckpointNotFoundError,
    IntegrityError,
    ManifestError,
    OutputError,
    TrackingError,
)
from tests.support import cli
from tests.support.checkpoints import put_checkpoint, save_run
from tests.support.training import fit, names, new_run, small_model

Meanwhile = Callable[..., None]
# Reading it fails as reading from a failing disk does.
FAILING = Path("/proc/self/mem")
failing_disk = pytest.mark.skipif(not FAILING.exists(), reason="no file that fails")


@pytest.fixture
def meanwhile(monkeypatch: pytest.MonkeyPatch) -> Meanwhile:
    """Has something happen once, immediately before, or after, a function's next call."""

    def arrange(
        place: str, name: str, happens: Callable[[], object], *, after: bool = False
    ) -> None:
        owner = resolve_name(place)
        function = getattr(owner, name)

        def call(*arguments: Any, **keywords: Any) -> Any:
            monkeypatch.setattr(owner, name, function)
            if after:
                result = function(*arguments, **keywords)
                happens()
                return result
            happens()
            return function(*arguments, **keywords)

        monkeypatch.setattr(owner, name, call)

    return arrange


# --- the spool -----------------------------------------------------------------------------------


def flush_elsewhere(run_id: str) -> None:
    done = cli.run_process("flush", run_id)
    assert done.returncode == 0, done.stdout + done.stderr


OVERWRITES = "mlflow_ckpt._saving.overwrites"


@pytest.mark.parametrize("epoch", [0, 1])
def test_a_training_begins_while_another_process_sends_what_waits(
    epoch: int, http_store: Store, meanwhile: Meanwhile
) -> None:
    run_id = new_run()
    put_checkpoint(run_id, http_store.uri)
    meanwhile(
        *("mlflow_ckpt._saving.saver", "entries_for", lambda: flush_elsewhere(run_id)), after=True
    )
    callback = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id, on_error="raise")
    if epoch == 0:
        # What was sent counts, though it is in the spool no more.
        with pytest.raises(CheckpointExistsError, match="up to epoch 1"):
            fit(small_model(), callback, epochs=1)
        return
    fit(small_model(), callback, initial_epoch=1, epochs=2)
    assert names(run_id) == ["epoch_0001", "epoch_0002"]


def test_a_training_begins_beside_a_damaged_entry(http_store: Store) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    (entry.files / "manifest.json").write_text("{")
    callback = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id)
    with warnings.catch_warnings(), pytest.raises(CheckpointExistsError, match="up to epoch 1"):
        warnings.simplefilter("ignore")  # the damage may be noticed by then
        fit(small_model(), callback, epochs=1)
    callback = mlflow_ckpt.MlflowCheckpoint("loss", run_id=run_id)
    with pytest.warns(UserWarning, match="manifest") as caught:
        fit(small_model(), callback, initial_epoch=1, epochs=2)
    assert sum(str(entry.path) in str(warning.message) for warning in caught) == 1
    assert names(run_id) == ["epoch_0002"]
    assert entry.path.exists()


@pytest.mark.parametrize("place", ["scan", "manifest"])
def test_what_is_sent_amid_the_check_is_not_overlooked(
    place: str, http_store: Store, meanwhile: Meanwhile
) -> None:
    """It is in the spool before, and on the server after; each is looked at once."""
    run_id = new_run()
    waiting = [put_checkpoint(run_id, http_store.uri, epoch) for epoch in (1, 2)]
    owner = {
        "scan": "mlflow_ckpt._tracking.catalog:Catalog",
        "manifest": "mlflow_ckpt._tracking.spool.entries:Entry",
    }[place]
    flush = lambda: cli.run("flush", run_id)  # noqa: E731
    meanwhile(owner, place, flush, after=True)
    with pytest.raises(CheckpointExistsError, match="up to epoch 2"):
        check_no_overwrite(RunStore(run_id), waiting, 0, None)


def test_an_entry_that_was_sent_has_no_manifest_and_no_size(http_store: Store) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    assert entry.manifest() is not None
    assert cli.run("flush", run_id).exit_code == 0
    assert (entry.manifest(), entry.size) == (None, 0)


@failing_disk
def test_a_disk_that_fails_is_told_from_an_entry_that_is_gone(http_store: Store) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    file = entry.files / "manifest.json"
    file.unlink()
    with pytest.raises(ManifestError, match="epoch_0001 cannot be read"):
        entry.manifest()
    file.symlink_to(FAILING)
    with pytest.raises(OutputError, match=r"epoch_0001 cannot be read.*Input/output error"):
        entry.manifest()


@failing_disk
@pytest.mark.parametrize("name", ["model.weights.h5", "manifest.json", "entry.json"])
def test_a_file_that_cannot_be_read_is_told_and_is_not_retried(
    name: str, http_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    file = (entry.path if name == "entry.json" else entry.files) / name
    file.unlink()
    file.symlink_to(FAILING)
    saver = CheckpointSaver(RunStore(run_id))
    with caplog.at_level(logging.WARNING):
        adopted = saver.adopt()
        assert saver.finish(patience=60) == []
    if name == "entry.json":
        assert adopted == []
        assert "cannot be read" in caplog.text
    else:
        (outcome,) = saver.outcomes()
        assert outcome.final
        assert isinstance(outcome.error, IntegrityError)
        assert "it is no file" in str(outcome.error)
    assert entry.path.is_dir()
    assert names(run_id) == []


def test_an_entry_without_its_description_is_told(
    http_store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    (entry.path / "entry.json").unlink()
    with caplog.at_level(logging.WARNING):
        assert Spool.default().entries(run_id) == []
    assert f"{entry.path} is left alone" in caplog.text
    assert entry.files.is_dir()


def test_an_entry_that_somebody_deletes_amid_its_upload_is_gone(
    http_store: Store, meanwhile: Meanwhile
) -> None:
    run_id = new_run()
    entry = put_checkpoint(run_id, http_store.uri)
    spool = Spool.default()
    meanwhile(
        *("mlflow_ckpt._tracking.spool.sending", "verify_directory"), lambda: spool.remove(entry)
    )
    store = RunStore(run_id)
    assert sending.send(spool, entry, store, verified=True) is None
    assert Spool.default().entries(run_id) == []


# --- checkpoints ---------------------------------------------------------------------------------


def replace_newest(run_id: str) -> None:
    """Save epoch 3, and remove the others, as a training does that keeps one."""
    with CheckpointSaver(RunStore(run_id)) as saver:
        saver.save(small_model(), "epoch_0003", epoch=3, metrics={"val_loss": 0.01})
    mlflow_ckpt.prune(run_id, LatestN(1))
    for name in set(names(run_id)) - {"epoch_0003"}:
        removal.remove(RunStore(run_id), name)


CATALOG = "mlflow_ckpt._tracking.catalog:Catalog"


def resume(run_id: str, _: Path) -> str:
    with pytest.warns(UserWarning, match="epoch_0003 holds no states of callbacks"):
        return mlflow_ckpt.resume(run_id).checkpoint.name


READERS: dict[str, Callable[[str, Path], object]] = {
    "verify": lambda run_id, _: mlflow_ckpt.verify(run_id).name,
    "load_model": lambda run_id, _: mlflow_ckpt.load_model(run_id) and "epoch_0003",
    "load_weights": lambda run_id, _: (
        mlflow_ckpt.load_weights(small_model(), run_id) and "epoch_0003"
    ),
    "resume": resume,
    "show": lambda run_id, _: cli.run("show", run_id).output.split()[1].rstrip(","),
    "restore": lambda run_id, path: (
        cli.run("restore", run_id, "--output", path / "restored").exit_code == 0 and "epoch_0003"
    ),
}


@pytest.mark.parametrize("reader", READERS)
def test_the_latest_is_replaced_once_it_is_found(
    reader: str, store: Store, meanwhile: Meanwhile, tmp_path: Path
) -> None:
    run_id = new_run()
    with CheckpointSaver(RunStore(run_id)) as saver:
        for epoch in (1, 2):
            saver.save(small_model(), f"epoch_{epoch:04d}", epoch=epoch, metrics={})
    place = "fingerprint" if reader == "show" else "_files"
    meanwhile(CATALOG, place, lambda: replace_newest(run_id))
    assert READERS[reader](run_id, tmp_path) == "epoch_0003"


def test_a_checkpoint_that_was_named_and_is_removed_does_not_exist(store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    own = find(Query(run_id, 1))
    removal.remove(RunStore(run_id), "epoch_0001")
    with pytest.raises(CheckpointNotFoundError, match="removed"), own.open():
        pass
    with pytest.raises(CheckpointNotFoundError, match="removed"):
        own.verify()
    with pytest.raises(CheckpointNotFoundError, match="removed"):
        own.catalog.fingerprint(own.checkpoint)


def test_a_checkpoint_that_goes_while_its_files_are_used_does_not_exist(local_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    with (
        pytest.raises(CheckpointNotFoundError, match="removed"),
        find(Query(run_id, 1)).open() as opened,
    ):
        removal.remove(RunStore(run_id), "epoch_0001")
        (opened.directory / "architecture.json").read_text()


def test_errors_of_the_caller_are_its_own(http_store: Store) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    with pytest.raises(KeyError, match="a mistake"), find(Query(run_id, 1)).open():
        removal.remove(RunStore(run_id), "epoch_0001")
        raise KeyError("a mistake")


def test_a_file_that_goes_while_others_are_compared_is_missing(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = local_store.checkpoint_directory(save_run(), "epoch_0001")
    manifest = read_manifest(directory)
    of_file = Digest.of_file

    def removing(path: Path) -> Digest:
        (directory / "training_state.json").unlink(missing_ok=True)
        return of_file(path)

    monkeypatch.setattr(Digest, "of_file", removing)
    result = verify_directory(directory, manifest)
    assert result.missing == ("training_state.json",)


@failing_disk
def test_a_disk_that_fails_does_not_make_a_checkpoint_damaged(
    local_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = save_run()
    of_file = Digest.of_file
    monkeypatch.setattr(Digest, "of_file", lambda _: of_file(FAILING))
    for read in (mlflow_ckpt.verify, mlflow_ckpt.load_model):
        with pytest.raises(TrackingError, match=r"epoch_0001 of run \w+ cannot be read"):
            read(run_id)


def test_verifying_all_passes_over_what_is_removed_meanwhile(
    store: Store, meanwhile: Meanwhile
) -> None:
    run_id = save_run(losses=(0.5, 0.4, 0.3))
    meanwhile(CATALOG, "verify", lambda: removal.remove(RunStore(run_id), "epoch_0001"))
    result = cli.run("verify", run_id, "--all")
    assert result.exit_code == 0, result.output
    assert [line.partition(":")[0] for line in result.output.splitlines()] == NAMES[1:]


NAMES = ["epoch_0001", "epoch_0002", "epoch_0003"]


def test_what_is_removed_while_it_is_listed_is_not_unfinished(
    store: Store, meanwhile: Meanwhile
) -> None:
    run_id = save_run(losses=(0.5, 0.4, 0.3))
    (store.checkpoint_directory(run_id, "epoch_0001").parent / "manifests.json").unlink()
    meanwhile(
        *("mlflow_ckpt._tracking.index", "read_manifests"),
        lambda: removal.remove(RunStore(run_id), "epoch_0003"),
    )
    complete, damaged, unfinished = Catalog(RunStore(run_id)).survey()
    assert [checkpoint.name for checkpoint in complete] == NAMES[:2]
    assert (damaged, unfinished) == ({}, [])


def test_resuming_goes_on_from_what_is_there(store: Store, meanwhile: Meanwhile) -> None:
    run_id = save_run(losses=(0.5, 0.4, 0.3))

    def remove_newest() -> None:
        removal.remove(RunStore(run_id), "epoch_0003")

    meanwhile(CATALOG, "fetch", remove_newest)
    query = Query(run_id)
    with open_for_resume(RunStore(run_id), Selector("latest"), query, None) as opened:
        assert (opened[0].name, opened[2]) == ("epoch_0002", {})


# --- removing ------------------------------------------------------------------------------------


def test_what_another_process_pruned_meanwhile_is_not_removed_again(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = save_run(losses=(0.1, 0.5, 0.4, 0.3))
    plan = prune_plan.plan(RunStore(run_id), LatestN(1))
    other = mlflow_ckpt.prune(run_id, LatestN(1))
    with caplog.at_level(logging.WARNING):
        pruned = removal.remove_planned(RunStore(run_id), plan)
    assert (other.removed, pruned.removed) == (("epoch_0002", "epoch_0003"), ())
    assert caplog.messages == []


def test_an_upload_to_the_place_of_a_removed_checkpoint_is_left_alone(store: Store) -> None:
    run_id = save_run(losses=(0.1, 0.5, 0.3))
    plan = prune_plan.plan(RunStore(run_id), LatestN(1))
    mlflow_ckpt.prune(run_id, LatestN(1))
    client = MlflowClient()
    for name in ("upload-00000000000000000001-0badcafe.json", "architecture.json"):
        client.log_text(run_id, "{}", f"checkpoints/epoch_0002/{name}")
    removal.remove_planned(RunStore(run_id), plan)
    directory = store.checkpoint_directory(run_id, "epoch_0002")
    assert len(list(directory.iterdir())) == 2


def test_a_row_that_another_process_removed_is_no_warning(
    store: Store, meanwhile: Meanwhile, caplog: pytest.LogCaptureFixture
) -> None:
    run_id = save_run(losses=(0.5, 0.4))
    meanwhile(
        *("mlflow.tracking:MlflowClient", "delete_logged_model"),
        lambda: logged_models.remove(RunStore(run_id), ["epoch_0001"]),
    )
    with caplog.at_level(logging.WARNING):
        logged_models.remove(RunStore(run_id), ["epoch_0001"])
    assert caplog.messages == []
