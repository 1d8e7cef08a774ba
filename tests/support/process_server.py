"""Becomes other Python programs: the program behind `tests.support.processes`.

It imports TensorFlow and MLflow once and runs nothing of them. For each request it forks, and the
child becomes the program that was asked for: its own arguments, environment, directory, session and
streams, the code run as `__main__`, and Python's real end: threads, exit handlers, exit code. Only
the modules' memory is not freed one by one at last, which takes seconds.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import sys
import types
from pathlib import Path
from typing import Any

PRELOADED = (
    *("keras", "tensorflow", "numpy", "h5py", "mlflow", "mlflow.keras", "mlflow.pyfunc"),
    *("mlflow.store.tracking.sqlalchemy_store", "mlflow.store.tracking.rest_store"),
    *("mlflow_ckpt", "mlflow_ckpt._callback", "mlflow_ckpt._cli", "mlflow_ckpt._cli.commands"),
    *("mlflow_ckpt._loading", "tests.support.children", "tests.support.jobs"),
)


def serve(listener: socket.socket, tests: str) -> tuple[dict[str, Any], list[int]]:
    """Answer requests while the tests run, which are the process of that number.

    Returns:
        In a process of its own for each request, what to become.
    """
    while True:
        try:
            connection, _ = listener.accept()
        except TimeoutError:
            if not Path(f"/proc/{tests}").exists():
                os._exit(0)
            continue
        connection.settimeout(None)
        with connection:
            text, streams, _, _ = socket.recv_fds(connection, 1 << 20, 3)
            if text and os.fork() == 0:
                listener.close()
                _stand_between(connection)
                return json.loads(text), streams
            for stream in streams:
                os.close(stream)


def _stand_between(connection: socket.socket) -> None:
    """Fork again: return in the child; the process between reports the child's exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    child = os.fork()
    if child == 0:
        os.setsid()
        return
    connection.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    connection.sendall(f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(request: dict[str, Any], streams: list[int]) -> tuple[types.CodeType, dict[str, Any]]:
    """Put everything in place, and return the code to run and its globals."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["-c", *request["arguments"]]
    # Before the root of the repository, which is there because this server runs in it.
    sys.path.insert(0, str(request["cwd"]))
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    return compile(str(request["code"]), "<string>", "exec"), vars(main)


class Ending:
    """What Python does after the last exit handler: it ends with the code of the program."""

    def __init__(self) -> None:
        self._code = 0
        self._interrupted = False

    def note(self, error: BaseException) -> None:
        """Remember how the program ended."""
        self._interrupted = isinstance(error, KeyboardInterrupt)
        code = error.code if isinstance(error, SystemExit) else 1
        self._code = code if isinstance(code, int) else int(code is not None)

    def __call__(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        if self._interrupted:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGINT)
        os._exit(self._code)


if __name__ == "__main__":
    _ending = Ending()
    atexit.register(_ending)  # the first to be registered is the last to be called
    for _name in PRELOADED:
        importlib.import_module(_name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    _listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    _listener.bind(sys.argv[1])
    _listener.listen(64)
    _listener.settimeout(10)
    gc.collect()
    gc.freeze()
    _program = become(*serve(_listener, sys.argv[2]))
    try:
        exec(*_program)
    except BaseException as _error:
        _ending.note(_error)
        raise
