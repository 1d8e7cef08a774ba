"""Downloads a file over HTTP, with timeouts for a network that hangs."""

import hashlib
import http.client
import queue
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from http.client import HTTPResponse
from pathlib import Path
from typing import BinaryIO

import click

from projects.cifar10.errors import DownloadError

CHUNK = 64 * 1024
# Fewer bytes within `patience` seconds count as a stall: the archive would take hours.
LEAST_BYTES = 64 * 1024


def download(url: str, target: Path, *, sha256: str, patience: float) -> None:
    """Download the file at `url` to `target` and check its digest.

    Args:
        url: An http or https URL.
        target: The path to write to; a failed download may leave a partial file.
        sha256: Expected SHA-256 of the file, in hex.
        patience: Seconds to wait for an answer, and for 64 kB during the transfer.

    Raises:
        DownloadError: If the server does not answer, refuses, stalls, or sends other content.
        OSError: If `target` cannot be written.
    """
    host = urllib.parse.urlsplit(url).netloc
    with _ask(url, host, patience) as response, target.open("wb") as file:
        size = int(response.headers.get("Content-Length") or 0)
        digest, received = _copy(response, file, host, size, patience)
    if received < size:
        raise DownloadError(f"{host} sent only {received:,} of {size:,} bytes")
    if digest != sha256:
        raise DownloadError(
            f"the file from {host} is not the expected one: "
            f"expected sha256:{sha256}, received sha256:{digest}"
        )


def _ask(url: str, host: str, patience: float) -> HTTPResponse:
    """Open `url` within `patience` seconds, including name lookup, connection and headers.

    A socket's timeout excludes the name lookup, and restarts for every address of the host and
    every line of the headers. So a thread makes the request, and is abandoned on timeout.
    """
    answers: queue.Queue[HTTPResponse | Exception] = queue.Queue()
    abandoned = threading.Event()

    def ask() -> None:
        try:
            response = urllib.request.urlopen(url, timeout=patience)  # noqa: S310 (a constant)
            if abandoned.is_set():
                response.close()
            answers.put(response)
        except (OSError, http.client.HTTPException) as error:
            answers.put(error)

    threading.Thread(target=ask, name="download", daemon=True).start()
    try:
        answer = answers.get(timeout=patience)
    except queue.Empty:
        abandoned.set()
        answer = TimeoutError()
    if isinstance(answer, urllib.error.HTTPError):
        answer.close()
    if isinstance(answer, Exception):
        raise DownloadError(_reason(answer, host, patience)) from answer
    return answer


def _reason(error: Exception, host: str, patience: float) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"{host} answered {error.code} {error.reason}"
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, TimeoutError):
        return f"{host} did not answer within {patience:g} s"
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause).strip()
    return f"{host} cannot be reached ({text or type(cause).__name__})"


def _copy(
    response: HTTPResponse, file: BinaryIO, host: str, size: int, patience: float
) -> tuple[str, int]:
    """Copy the body to `file` and return its SHA-256 in hex and its size in bytes."""
    sha256, received = hashlib.sha256(), 0
    window_start, window_bytes = time.monotonic(), 0
    with click.progressbar(length=size, label=f"Downloading from {host}") as bar:
        while chunk := _read(response, host, patience):
            file.write(chunk)
            sha256.update(chunk)
            received += len(chunk)
            window_bytes += len(chunk)
            bar.update(len(chunk))
            if time.monotonic() - window_start > patience:
                if window_bytes < LEAST_BYTES:
                    raise DownloadError(
                        f"{host} sent only {window_bytes:,} bytes within {patience:g} s"
                    )
                window_start, window_bytes = time.monotonic(), 0
    return sha256.hexdigest(), received


def _read(response: HTTPResponse, host: str, patience: float) -> bytes:
    try:
        # read1 returns the bytes that have arrived; read would wait for a whole chunk.
        return response.read1(CHUNK)
    except TimeoutError as error:
        raise DownloadError(f"{host} stopped sending for {patience:g} s") from error
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"the connection to {host} broke ({error})") from error
