"""By whom a checkpoint must be signed to be opened on this machine."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import platformdirs

from mlflow_ckpt._format.layout import SIGNATURE
from mlflow_ckpt._format.signing import library
from mlflow_ckpt._format.signing.keys import Location
from mlflow_ckpt._format.signing.library import Digests
from mlflow_ckpt._format.untrusted import regular_file
from mlflow_ckpt.errors import (
    ArgumentTypeError,
    InvalidArgumentError,
    SignatureError,
    UnsafeFileError,
)

# Whoever must have signed whatever is opened on this machine, besides the policy files.
POLICY_VARIABLE = "MLFLOW_CKPT_SIGNED_BY"
# Name of a policy file, in the directory for configuration of the machine or of the user.
POLICY_FILE = "signed_by"
# Largest PEM file and policy file, and largest signature, in bytes.
_LARGEST = 2**20
LARGEST_SIGNATURE = 2**24

SignedBy = Location | Sequence[Location]
_SIGSTORE = "sigstore:"
_EXPECTED = (
    "the path of a PEM file with the public key, or with the root certificate, or "
    "'sigstore:IDENTITY,ISSUER', such as 'sigstore:me@example.com,https://accounts.google.com'"
)


@dataclass(frozen=True)
class Signer:
    """One who may have signed: the owner of a key, of a certificate, or an identity of Sigstore.

    Attributes:
        text: As the user named it.
        path: The PEM file; None for an identity.
        is_certificate: Whether the file has certificates.
        identity: The identity and its issuer; empty for a file.
    """

    text: str
    path: Path | None = None
    is_certificate: bool = False
    identity: tuple[str, str] = ("", "")

    @classmethod
    def parse(cls, value: Location, beside: Path | None = None) -> Signer:
        """Parse what the user named.

        Args:
            value: A path, or `sigstore:IDENTITY,ISSUER`.
            beside: Directory that relative paths begin at; the current one if None.

        Raises:
            InvalidArgumentError: If it is neither, or the file is none of a public key.
        """
        if not isinstance(value, (str, os.PathLike)):
            raise ArgumentTypeError(f"Unrecognized signer. Expected {_EXPECTED}. Got: {value!r}")
        text = str(value)
        if text.startswith(_SIGSTORE):
            identity, _, issuer = text.removeprefix(_SIGSTORE).rpartition(",")
            if not identity.strip() or not issuer.strip().startswith("https://"):
                raise _unrecognized(text, "which names no identity and issuer")
            return cls(text, identity=(identity.strip(), issuer.strip()))
        path = Path(beside or ".", text).expanduser()
        content = _read(path, text)
        if b"PRIVATE KEY-----" in content:
            raise _unrecognized(text, "which is a private key. Pass the public one")
        is_certificate = b"-----BEGIN CERTIFICATE-----" in content
        if not is_certificate and b"-----BEGIN PUBLIC KEY-----" not in content:
            raise _unrecognized(text, "which is no such file")
        return cls(text, path.absolute(), is_certificate)

    def verify(self, signature: Path, digests: Digests) -> None:
        """Check that this one signed exactly these files.

        Raises:
            SignatureError: If not.
        """
        if self.path is None:
            library.verify_identity(signature, digests, *self.identity)
        elif self.is_certificate:
            library.verify_certificate(signature, digests, [self.path])
        else:
            library.verify_key(signature, digests, self.path)


@dataclass(frozen=True)
class Trust:
    """By whom checkpoints must be signed: by one of each group, and by anybody without groups."""

    groups: tuple[tuple[Signer, ...], ...] = ()

    @classmethod
    def of(cls, signed_by: SignedBy = ()) -> Trust:
        """Return what an argument and this machine's policies require together.

        Args:
            signed_by: The signers of which one must have signed; nobody if empty.

        Raises:
            InvalidArgumentError: If the argument or a policy cannot be understood.
        """
        values: list[Any] = [signed_by]
        if isinstance(signed_by, Iterable) and not isinstance(signed_by, (str, bytes)):
            values = list(signed_by)
        if not values and signed_by != ():
            raise InvalidArgumentError(
                f"signed_by names nobody. Expected {_EXPECTED}, or several. Received: {signed_by!r}"
            )
        groups = [tuple(map(Signer.parse, values)), *_policies()]
        return cls(tuple(group for group in groups if group))

    @property
    def is_required(self) -> bool:
        """Whether a checkpoint must be signed."""
        return bool(self.groups)

    def __str__(self) -> str:
        """Return by whom a checkpoint must be signed, as a phrase."""
        groups = (" or ".join(signer.text for signer in group) for group in self.groups)
        return ", and by ".join(groups)

    def require(self, signature: Path, digests: Digests, what: str) -> str:
        """Check a signature, and return who signed, of whom must have.

        Args:
            signature: The file, which may be missing.
            digests: The files that it must be over, and no others.
            what: What is signed, as a phrase.

        Raises:
            SignatureError: If it is not by whom it must be.
        """
        if not signature.is_file() or signature.is_symlink():
            raise self.refusal(f"{what} is not signed")
        if signature.stat().st_size > LARGEST_SIGNATURE:
            raise self.refusal(f"{what} has a signature that is too large")
        found: dict[str, None] = {}
        for group in self.groups:
            failures = list(_failures(group, signature, digests))
            if len(failures) == len(group):
                raise self.refusal(
                    f"{what} is not signed by {' or '.join(signer.text for signer in group)} "
                    f"({failures[0]})"
                ) from failures[0]
            found[group[len(failures)].text] = None
        return ", ".join(found)

    def refusal(self, problem: str) -> SignatureError:
        """Return the error for something that is not signed as required."""
        return SignatureError(
            f"{problem}. Expected a signature ({SIGNATURE}) by {self}. It was not opened: sign it "
            "with mlflow-ckpt sign if you know where it comes from, or use another checkpoint."
        )


def _failures(
    signers: Iterable[Signer], signature: Path, digests: Digests
) -> Iterable[SignatureError]:
    """Yield why each did not sign, until one did."""
    for signer in signers:
        try:
            signer.verify(signature, digests)
        except SignatureError as error:
            yield error
        else:
            return


def _policies() -> list[tuple[Signer, ...]]:
    """Return the signers that each of this machine's policies names."""
    policies = []
    text = os.environ.get(POLICY_VARIABLE)
    if text is not None:
        policies.append(_policy(text, f"the variable {POLICY_VARIABLE}", None))
    # Desktops put directories of their own before `/etc/xdg`.
    of_machine = platformdirs.site_config_dir("mlflow_ckpt", multipath=True).split(os.pathsep)
    of_user = platformdirs.user_config_dir("mlflow_ckpt")
    for directory in map(Path, dict.fromkeys([*of_machine, of_user])):
        file = directory / POLICY_FILE
        if not _is_missing(file):
            content = _read(file, str(file)).decode(errors="replace")
            policies.append(_policy(content, f"the policy {file}", directory))
    return policies


def _is_missing(file: Path) -> bool:
    """Whether a file is not there, rather than in a directory that cannot be searched."""
    try:
        file.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _policy(text: str, where: str, beside: Path | None) -> tuple[Signer, ...]:
    """Parse a policy: a signer in each line, or separated by semicolons; `#` begins a comment."""
    lines = [line.partition("#")[0].strip() for line in re.split(r"[\n;]", text)]
    try:
        signers = tuple(Signer.parse(line, beside) for line in lines if line)
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"In {where}: {error}") from error
    if not signers:
        # Fail closed: whoever wrote it wanted signatures.
        raise InvalidArgumentError(
            f"By {where}, checkpoints must be signed, but it names nobody. Expected {_EXPECTED} in "
            "each line. Add one, or remove it."
        )
    return signers


def _read(path: Path, text: str) -> bytes:
    try:
        return regular_file.read(path, most=_LARGEST, follow=True)
    except FileNotFoundError as error:
        raise _unrecognized(text, "which is no file") from error
    except (OSError, UnsafeFileError) as error:
        raise _unrecognized(text, f"which cannot be read ({error})") from error


def _unrecognized(text: str, why: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"Unrecognized signer. Expected {_EXPECTED}. Received: {text!r}, {why}."
    )
