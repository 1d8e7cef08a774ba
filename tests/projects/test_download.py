"""Downloads: good, refused, damaged, and those that would hang for ever."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

from devtools.stores import free_port
from projects.cifar10.download import download
from projects.cifar10.errors import DownloadError
from tests.projects import servers

HELLO = hashlib.sha256(b"hello").hexdigest()


# Seconds to wait for a server that does answer, which a busy machine may take its time for.
LONG = 60.0


def fetch(host: str, target: Path, sha256: str = HELLO, patience: float = LONG) -> None:
    download(f"http://{host}/file", target, sha256=sha256, patience=patience)


def test_the_file_is_written_as_sent(tmp_path: Path) -> None:
    body = bytes(range(256)) * 3000
    with servers.serving(servers.send(body)) as host:
        fetch(host, tmp_path / "file", hashlib.sha256(body).hexdigest())
    assert (tmp_path / "file").read_bytes() == body


@pytest.mark.parametrize(
    ("behaviour", "patience", "sentence"),
    [
        (servers.hang, 0.5, "{host} did not answer within 0.5 s"),
        (servers.trickle_headers, 0.5, "{host} did not answer within 0.5 s"),
        (servers.trickle_body, 3.0, "{host} sent only ? bytes within 3 s"),
        (servers.stall, 3.0, "{host} stopped sending for 3 s"),
        (servers.refuse, LONG, "{host} answered 403 Forbidden"),
        (servers.break_off, LONG, "{host} sent only 5 of 10 bytes"),
        (servers.babble, LONG, "{host} cannot be reached (SSH-2.0-OpenSSH_9.2)"),
        (
            servers.send(b"jello"),
            LONG,
            "the file from {host} is not the expected one: expected sha256:"
            f"{HELLO}, received sha256:{hashlib.sha256(b'jello').hexdigest()}",
        ),
    ],
)
def test_a_bad_server_gives_one_sentence(
    behaviour: servers.Behaviour, patience: float, sentence: str, tmp_path: Path
) -> None:
    with servers.serving(behaviour) as host, pytest.raises(DownloadError) as caught:
        fetch(host, tmp_path / "file", patience=patience)
    message = re.sub(r"only \d+ bytes", "only ? bytes", caught.value.message)
    assert message == sentence.format(host=host)


def test_nobody_listens(tmp_path: Path) -> None:
    host = f"127.0.0.1:{free_port()}"
    with pytest.raises(DownloadError) as caught:
        fetch(host, tmp_path / "file")
    assert caught.value.message == f"{host} cannot be reached (Connection refused)"


def test_an_unknown_host_is_told(tmp_path: Path) -> None:
    with pytest.raises(DownloadError) as caught:
        fetch("no-such-host.invalid", tmp_path / "file")
    assert caught.value.message.startswith("no-such-host.invalid ")
