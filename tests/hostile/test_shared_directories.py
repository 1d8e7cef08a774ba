"""Output and input in directories that others can write to."""

from __future__ import annotations

import csv
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import mlflow_ckpt
from devtools.stores import Store
from mlflow_ckpt._cli import output, predictions
from mlflow_ckpt._cli.model_options import load_modules
from mlflow_ckpt.errors import OutputError
from tests.conftest import TrainedRun
from tests.support.checkpoints import save_run
from tests.support.cli import run
from tests.support.training import new_run, small_model


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A directory such as /tmp."""
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o1777)
    return directory


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    file = tmp_path / "mine"
    file.write_text("precious")
    return file


def predict(trained: TrainedRun, target: Path, tmp_path: Path, *options: str) -> int:
    data = tmp_path / "x.npy"
    np.save(data, trained.x[:2])
    address = ("--tracking-uri", trained.store.uri)
    return run("predict", trained.run_id, data, "--output", target, *address, *options).exit_code


def report(trained: TrainedRun, target: Path, tmp_path: Path, *options: str) -> int:
    address = ("--tracking-uri", trained.store.uri)
    return run("report", trained.run_id, "-o", target, *address, *options).exit_code


COMMANDS: dict[str, tuple[Callable[..., int], str]] = {
    "predict": (predict, "out.csv"),
    "report": (report, "page.html"),
}


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["mine", "nowhere"])
def test_a_link_in_the_place_of_the_output_is_never_followed(
    command: str,
    where: str,
    shared: Path,
    mine: Path,
    tmp_path: Path,
    trained_run: TrainedRun,
    record_property: pytest.RecordProperty,
) -> None:
    run_command, name = COMMANDS[command]
    target = shared / name
    target.symlink_to(mine if where == "mine" else tmp_path / "nowhere")
    assert run_command(trained_run, target, tmp_path) == 6
    assert target.is_symlink()
    assert run_command(trained_run, target, tmp_path, "--overwrite") == 0
    assert target.is_file()
    assert not target.is_symlink()
    assert mine.read_text() == "precious"
    assert not (tmp_path / "nowhere").exists()
    assert list(shared.iterdir()) == [target]
    record_property("hostile", f"a link as output | {command} | refused")


def test_names_that_can_be_foreseen_are_not_used(
    shared: Path, mine: Path, tmp_path: Path, trained_run: TrainedRun
) -> None:
    target = shared / "out.csv"
    for name in (f".{os.getpid()}.out.csv", "out.csv.tmp", ".out.csv.tmp"):
        (shared / name).symlink_to(mine)
    assert predict(trained_run, target, tmp_path) == 0
    assert mine.read_text() == "precious"
    plain = tmp_path / "plain"
    plain.touch()
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_what_appears_meanwhile_is_not_replaced(shared: Path) -> None:
    target = shared / "out.csv"
    with (
        pytest.raises(OutputError, match="cannot be written"),
        output.new_file(target, overwrite=False) as file,
    ):
        file.write(b"ours")
        target.write_text("theirs")
    assert target.read_text() == "theirs"
    assert list(shared.iterdir()) == [target]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_device_is_not_replaced(command: str, tmp_path: Path, trained_run: TrainedRun) -> None:
    run_command, name = COMMANDS[command]
    pipe = tmp_path / name
    os.mkfifo(pipe)
    assert run_command(trained_run, pipe, tmp_path, "--overwrite") == 6
    assert pipe.is_fifo()


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("what", ["the directory", "a file in it", "a directory in it"])
def test_restore_follows_no_link(
    what: str,
    overwrite: bool,
    shared: Path,
    mine: Path,
    tmp_path: Path,
    local_store: Store,
    record_property: pytest.RecordProperty,
) -> None:
    run_id = save_run()
    target, elsewhere = shared / "restored", tmp_path / "elsewhere"
    elsewhere.mkdir()
    if what == "the directory":
        target.symlink_to(elsewhere)
    else:
        target.mkdir()
        (target / "model.keras").symlink_to(mine if what == "a file in it" else elsewhere)
    options = ["--overwrite"] if overwrite else []
    result = run("restore", run_id, "--output", target, *options)
    assert result.exit_code == 6, result.output
    assert mine.read_text() == "precious"
    assert list(elsewhere.iterdir()) == []
    assert list(shared.iterdir()) == [target]
    record_property("hostile", f"{what} is a link | mlflow-ckpt restore | refused")


def test_import_follows_no_link_out_of_the_folder(
    local_store: Store, tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    small_model().save(elsewhere / "private.keras")
    small_model().save(folder / "model.01.keras")
    (folder / "model.02.keras").symlink_to(elsewhere / "private.keras")
    (folder / "hop").symlink_to(elsewhere)
    (folder / "model.03.keras").symlink_to(folder / "hop" / "private.keras")
    (folder / "model.04.keras").symlink_to("model.01.keras")
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    done = mlflow_ckpt.import_checkpoints(linked, run_id=new_run(), dry_run=True)
    assert [file.outcome for file in done] == [
        *("would be imported", "failed", "failed", "would be imported"),
    ]
    assert "outside of the folder" in str(done[1].remark)
    record_property("hostile", "a link out of the folder | import | refused")


TEXTS = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\uff1d1", "=cmd|' /C calc'!A0", "\x1b[2J"]


def test_cells_of_a_table_are_text(shared: Path, record_property: pytest.RecordProperty) -> None:
    array = np.eye(len(TEXTS), dtype="float32")
    table = shared / "table.csv"
    named = {"=out": array, "values": -array[:, :1] - 0.5}
    write = predictions.writer_for(table, as_json=False, overwrite=False)
    write(predictions.Predictions(named, TEXTS))
    with table.open(newline="") as file:
        header, *rows = csv.reader(file)
    assert header[1:3] == ["'=out_class", "'=out_probability"]
    for text, row in zip(TEXTS, rows, strict=True):
        assert not row[1].startswith(("=", "+", "-", "@", "\t", "\r", "\uff1d"))
        assert row[1].removeprefix("'") == text.encode("unicode_escape").decode() or (
            text.startswith("\uff1d")
        )
    assert rows[0][3] == "-1.5"
    record_property("hostile", "formulas as class names | predict | harmless")


def test_names_of_outputs_lead_nowhere_when_unpacked(shared: Path) -> None:
    array = np.zeros((2, 1), "float32")
    names = ("../../evil", "/evil", "a/b", "..\\evil")
    write = predictions.writer_for(shared / "out.npz", as_json=False, overwrite=False)
    write(predictions.Predictions(dict.fromkeys(names, array), None))
    with np.load(shared / "out.npz") as arrays:
        assert arrays.files == [".._.._evil", "_evil", "a/b", ".._evil"]


def test_modules_of_the_directory_are_imported_only_where_they_were_named(
    shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (shared / "own_layers.py").write_text("class Own: pass\n")
    touch = f"import pathlib; pathlib.Path({str(tmp_path / 'canary')!r}).touch()\n"
    (shared / "wave.py").write_text(touch)
    monkeypatch.chdir(shared)
    monkeypatch.setattr("sys.path", [*sys.path])
    assert list(load_modules(["own_layers"])) == ["Own"]
    import wave  # noqa: F401 - of the standard library, although there is one here

    assert not (tmp_path / "canary").exists()
