"""Python programs in new processes that start immediately.

Importing TensorFlow and MLflow takes ten seconds per process. Instead, a server that has imported
them forks into the program (see `process_server`): imports are fast, and nothing else differs.
Tests of imports, or of the start of an interpreter, start an interpreter themselves.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from tests.support import shared
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
COMMAND = "import sys; from mlflow_ckpt._cli import main; sys.argv[0] = 'mlflow-ckpt'; main()"
# Processes that take longer are considered hung.
_PATIENCE_SECONDS = 300
# The test session's directory.
_directory: list[Path] = []


def set_directory(directory: Path) -> None:
    """Set the directory that the workers of the test session share."""
    _directory[:] = [directory]


class Process:
    """A running Python program.

    Args:
        code: The code to run, as with `python -c`.
        arguments: Its arguments.
        cwd: Its working directory; None for this process's.
        env: Its environment; None for this process's.
        stdin: Its standard input; None for no input.
        stdout: Its standard output; None to capture it.
    """

    def __init__(
        self,
        code: str,
        *arguments: str | Path,
        cwd: Path | None = None,
        env: dict[str, str] | None = None,
        stdin: socket.socket | None = None,
        stdout: IO[str] | None = None,
    ) -> None:
        self.args = ["python", "-c", code, *map(str, arguments)]
        self._output, self._errors = (
            tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed once it is read
            for _ in range(2)
        )
        request = {
            "code": code,
            "arguments": [str(argument) for argument in arguments],
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ if env is None else env),
        }
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(_address())
        with Path(os.devnull).open() as nothing:
            streams = [stdin or nothing, stdout or self._output, self._errors]
            text = json.dumps(request).encode()
            socket.send_fds(self._connection, [text], [stream.fileno() for stream in streams])
        self._replies = self._connection.makefile("rb", buffering=0)
        self._connection.settimeout(_PATIENCE_SECONDS)
        self.pid = int(self._replies.readline())

    def wait(self) -> subprocess.CompletedProcess[str]:
        """Wait until the program ends, and return its exit code and output."""
        try:
            code = int(self._replies.readline())
        except TimeoutError:
            with suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            raise AssertionError(f"It hangs: {self.args}\n{self._read()[1]}") from None
        finally:
            self._replies.close()
            self._connection.close()
        return subprocess.CompletedProcess(self.args, code, *self._read())

    def _read(self) -> tuple[str, str]:
        texts = []
        for stream in (self._output, self._errors):
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
        return texts[0], texts[1]


def run_python(
    code: str, *arguments: str | Path, **settings: Any
) -> subprocess.CompletedProcess[str]:
    """Run a program until it ends; the settings are those of `Process`."""
    return Process(code, *arguments, **settings).wait()


def run_command(*arguments: str | Path, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run `mlflow-ckpt` until it ends."""
    return run_python(COMMAND, *arguments, **settings)


def _address() -> str:
    (directory,) = _directory
    return str(shared.started_once(directory, "processes", _start)["address"])


def _tests() -> int:
    """Return the id of the process that all workers are children of."""
    return os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()


def _start() -> dict[str, Any]:
    # A socket's path is limited to about 100 characters.
    address = Path(tempfile.mkdtemp(prefix="processes-")) / "socket"
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.process_server", str(address), str(_tests())],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        start_new_session=True,
    )

    def listens() -> bool:
        assert server.poll() is None, "the server of processes ended"
        with socket.socket(socket.AF_UNIX) as attempt:
            return attempt.connect_ex(str(address)) == 0

    wait_for(listens, "the server of processes")
    server.returncode = 0  # it outlives this process, which need not wait for it
    return {"group": server.pid, "address": str(address)}
