"""The server of `tests.support.processes`, whose forks become other Python programs.

It imports TensorFlow and MLflow once, but runs nothing in them. For each request it forks, and the
child becomes the requested program: with its own arguments, environment, directory, session and
streams, the code run as `__main__`, and Python's regular exit: threads, exit handlers, exit code.
Only freeing the modules' memory one by one at the end, which takes seconds, is skipped.
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
    """Answer requests while the tests run, whose process id is `tests`.

    Returns:
        In a new process for each request: the request, and its streams.
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
    """Set up the process, and return the code to run and its globals."""
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(str(request["cwd"]))
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["-c", *request["arguments"]]
    # Before the root of the repository, which is on the path because this server runs in it.
    sys.path.insert(0, str(request["cwd"]))
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    return compile(str(request["code"]), "<string>", "exec"), vars(main)


class Ending:
    """Ends the process after the last exit handler, with the program's exit code."""

    def __init__(self) -> None:
        self._code = 0
        self._interrupted = False

    def note(self, error: BaseException) -> None:
        """Record how the program ended."""
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
    atexit.register(_ending)  # registered first, so called last
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
