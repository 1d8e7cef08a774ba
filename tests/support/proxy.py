"""A reverse proxy that can fail on demand."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from devtools.stores import Store, current
from tests.support.waiting import PATIENCE_SECONDS

ARTIFACTS, METADATA = "artifacts", "metadata"
_REFUSALS = {
    "fail": (500, b"the disk of the server is full"),
    "deny": (403, b"these credentials are not known"),
    "old": (404, b"Not Found"),
}
# Headers of answers that clients read.
_KEPT = ("content-type", "etag", "last-modified")
# How many bytes of an answer arrive before the connection breaks.
_HALF = 10


class Proxy:
    """Forwards requests to a real server, and fails on demand.

    Attributes:
        mode: `"pass"`; `"fail"`, which answers 500; `"deny"`, which answers 403; `"hang"`, which
            answers nothing until `release`; `"half"`, which breaks off each answer; `"refuse"`,
            which closes connections; `"old"`, which does not know such requests.
        only: `"artifacts"`, `"checkpoints"` or `"uploads"` of them, `"models"` (LoggedModels) or
            `"metadata"` to treat only such requests that way; all, and the server's health, if
            empty.
        failed: Set once a request was treated that way.
    """

    def __init__(self, target: str) -> None:
        self.mode, self.only = "pass", ""
        self.failed = threading.Event()
        self._released = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                mode = proxy.mode if proxy.concerns(self.command, self.path) else "pass"
                if mode != "pass":
                    proxy.failed.set()
                if mode == "refuse":
                    self.close_connection = True
                    return
                if mode == "hang":
                    proxy._released.wait(PATIENCE_SECONDS)
                if mode in _REFUSALS:
                    self.answer(*_REFUSALS[mode])
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                answer = requests.request(
                    self.command, target + self.path, data=body, headers=headers, timeout=60
                )
                self.answer(
                    answer.status_code, answer.content, answer.headers, broken=mode == "half"
                )

            def answer(
                self,
                status: int,
                content: bytes,
                headers: Mapping[str, str] | None = None,
                *,
                broken: bool = False,
            ) -> None:
                self.send_response(status)
                for name, value in (headers or {}).items():
                    if name.lower() in _KEPT:
                        self.send_header(name, value)
                length = (headers or {}).get("Content-Length") if self.command == "HEAD" else None
                self.send_header("Content-Length", length or str(len(content) + broken))
                self.end_headers()
                self.wfile.write(content[:_HALF] if broken else content)
                self.close_connection = broken

            do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
                """Do not log."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Do not report clients that disconnected."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def concerns(self, command: str, path: str) -> bool:
        """Whether the mode concerns a request."""
        artifacts = "mlflow-artifacts" in path
        return {
            "": True,
            ARTIFACTS: artifacts,
            METADATA: not artifacts and not path.startswith("/health"),
            "checkpoints": artifacts and "/checkpoints/" in path,
            "uploads": artifacts and command == "PUT",
            "models": "logged-models" in path or "outputs" in path,
        }[self.only]

    def release(self) -> None:
        """Answer again, including waiting requests."""
        self.mode = "pass"
        self._released.set()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join(PATIENCE_SECONDS)
        self._server.server_close()


@contextmanager
def proxied(store: Store) -> Iterator[Proxy]:
    """Make a store MLflow's current one, behind a proxy."""
    proxy = Proxy(store.uri)
    try:
        with current(Store(proxy.uri, store.artifacts, store.experiment_id)):
            yield proxy
            proxy.release()
    finally:
        proxy.close()
