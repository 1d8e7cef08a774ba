"""An HTTP server that must not get what is meant for another."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Listener:
    """Records the requests that it gets, and answers them with nothing or a redirection.

    Attributes:
        uri: Its address.
        requests: Method, path and headers of each request.
        redirects_to: Where it sends those who ask; nowhere if empty.
    """

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.redirects_to = ""
        listener = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                headers = {name.lower(): value for name, value in self.headers.items()}
                listener.requests.append((self.command, self.path, headers))
                self.send_response(302 if listener.redirects_to else 200)
                if listener.redirects_to:
                    self.send_header("Location", f"{listener.redirects_to}{self.path}")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_any  # noqa: N815

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"

    @property
    def secrets(self) -> list[str]:
        """The credentials that it got."""
        return [h["authorization"] for _, _, h in self.requests if "authorization" in h]


@contextmanager
def listening() -> Iterator[Listener]:
    """Run a listener for the duration of the context."""
    listener = Listener()
    thread = threading.Thread(target=listener.server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield listener
    finally:
        listener.server.shutdown()
        thread.join()
        listener.server.server_close()
