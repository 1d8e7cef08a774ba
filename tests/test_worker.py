"""The thread that writes checkpoints: errors are reported, and the process waits for it."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

from mlflow_ckpt._saving.worker import Worker
from tests.support.waiting import PATIENCE_SECONDS

ROOT = Path(__file__).parents[1]


def test_tasks_run_in_order_and_a_failure_stops_none() -> None:
    errors: list[Exception] = []
    done: list[int] = []
    worker = Worker("test", errors.append)

    def fail() -> None:
        raise TypeError("broken")

    worker.submit(lambda: done.append(1))
    worker.submit(fail)
    worker.submit(lambda: done.append(2))
    worker.join()
    assert done == [1, 2]
    assert [str(error) for error in errors] == ["broken"]
    worker.close()


def test_a_closed_worker_starts_again() -> None:
    threads: list[threading.Thread] = []
    worker = Worker("test", lambda error: None)
    for _ in range(2):
        worker.submit(lambda: threads.append(threading.current_thread()))
        worker.join()
        worker.close()
        threads[-1].join(PATIENCE_SECONDS)
        assert not threads[-1].is_alive()
    assert threads[0] is not threads[1]


SCRIPT = """
import sys
import numpy as np
from mlflow_ckpt._model.files.hdf5 import laid_out, write_out
from mlflow_ckpt._saving.worker import Worker
from pathlib import Path

def write():
    with laid_out() as (file, layout):
        for index in range(300):
            file.create_dataset(f"layer_{index}", data=np.zeros(20_000))
    with Path(sys.argv[1]).open("wb") as target:
        write_out(layout, target.write)

worker = Worker("writer", print)
worker.submit(write)
"""


def test_the_process_ends_when_what_was_submitted_is_written(tmp_path: Path) -> None:
    """Python would end the thread while it holds HDF5's lock, and then wait for the lock."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path / "x.h5")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "x.h5").stat().st_size > 300 * 20_000 * 8
