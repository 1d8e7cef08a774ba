"""A reverse proxy that can fail on demand."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import requests

from tests.support.waiting import PATIENCE_SECONDS


class Proxy:
    """Forwards requests to a real server, and fails on demand.

    Attributes:
        mode: `"pass"`; `"refuse artifacts"`, which answers 500 to uploads; `"fail"`, which answers
            500 to everything; `"hang"`, which answers nothing; `"old"`, which has no LoggedModels.
        failed: Set once a request was answered 500.
    """

    def __init__(self, target: str) -> None:
        self.mode = "pass"
        self.failed = threading.Event()
        self._released = threading.Event()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                upload = self.command == "PUT" and "mlflow-artifacts" in self.path
                if proxy.mode == "hang":
                    proxy._released.wait(PATIENCE_SECONDS)
                if proxy.mode == "fail" or (proxy.mode == "refuse artifacts" and upload):
                    self.answer(500, b"the disk of the server is full")
                    proxy.failed.set()
                    return
                if proxy.mode == "old" and ("logged-models" in self.path or "outputs" in self.path):
                    self.answer(404, b"Not Found")
                    return
                headers = {k: v for k, v in self.headers.items() if k.lower() != "host"}
                answer = requests.request(
                    self.command, target + self.path, data=body, headers=headers, timeout=60
                )
                self.answer(answer.status_code, answer.content)

            def answer(self, status: int, content: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any  # noqa: N815

            def log_message(self, format: str, *arguments: Any) -> None:  # noqa: A002
                """Do not log."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """Do not report clients that disconnected."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Answer again, including waiting requests."""
        self.mode = "pass"
        self._released.set()

    def close(self) -> None:
        self.release()
        self._server.shutdown()
        self._thread.join(PATIENCE_SECONDS)
        self._server.server_close()
