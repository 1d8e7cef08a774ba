"""Real servers on 127.0.0.1 that answer badly, or well."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from socket import socket

Behaviour = Callable[[socket, threading.Event], None]
# Seconds until a server gives up on a client that never does: such a test fails, it does not hang.
PATIENCE = 20


def hang(connection: socket, closing: threading.Event) -> None:
    closing.wait(PATIENCE)


def trickle_headers(connection: socket, closing: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n")
    for _ in range(10 * PATIENCE):
        if closing.wait(0.1):
            return
        connection.sendall(b"X-Wait: 1\r\n")


def trickle_body(connection: socket, closing: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    for _ in range(10 * PATIENCE):
        if closing.wait(0.1):
            return
        connection.sendall(b"x")


def stall(connection: socket, closing: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 100_000)
    closing.wait(PATIENCE)


def refuse(connection: socket, closing: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def break_off(connection: socket, closing: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhello")


def babble(connection: socket, closing: threading.Event) -> None:
    connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")


def send(body: bytes) -> Behaviour:
    def answer(connection: socket, closing: threading.Event) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)

    return answer


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    behaviour: Behaviour
    closing: threading.Event


class _Handler(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, _Server)
        self.request.recv(65536)
        try:
            self.server.behaviour(self.request, self.server.closing)
        except OSError:  # the client has gone
            return


@contextmanager
def serving(behaviour: Behaviour) -> Iterator[str]:
    """Serve every request with `behaviour` and give the address host:port."""
    with _Server(("127.0.0.1", 0), _Handler) as server:
        server.behaviour = behaviour
        server.closing = threading.Event()
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.closing.set()
            server.shutdown()
            thread.join(PATIENCE)
