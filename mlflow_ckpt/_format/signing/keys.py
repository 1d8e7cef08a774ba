"""With what a checkpoint is signed: a private key, a certificate, or an identity of Sigstore."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow_ckpt.errors import ArgumentTypeError, InvalidArgumentError

# Sign with an identity that Sigstore certifies, instead of a key.
SIGSTORE = "sigstore"
# The key to sign with if none is passed, and the password of an encrypted one.
KEY_VARIABLE = "MLFLOW_CKPT_SIGNING_KEY"
PASSWORD_VARIABLE = "MLFLOW_CKPT_SIGNING_PASSWORD"  # noqa: S105 - a variable's name
# An OpenID Connect token, under the name that Sigstore's own tools use.
TOKEN_VARIABLE = "SIGSTORE_ID_TOKEN"  # noqa: S105 - a variable's name

Location = str | os.PathLike[str]
_EXPECTED = (
    "the path of a PEM file with a private key (EC, on the curve P-256, P-384 or P-521), "
    "'sigstore', or a mlflow_ckpt.SigningKey"
)


@dataclass(frozen=True)
class SigningKey:
    """What checkpoints are signed with. It holds paths only: the key is read when it is used.

    An encrypted key is opened with the password in `MLFLOW_CKPT_SIGNING_PASSWORD`.

    Args:
        key: Path of a PEM file with an EC private key (P-256, P-384 or P-521, as of `openssl
            ecparam -name prime256v1 -genkey`), or `"sigstore"` for an identity that Sigstore
            certifies: the token in `SIGSTORE_ID_TOKEN`, or that of the CI service.
        certificate: Path of a PEM file with the certificate of the key, if it has one.
        chain: Paths of PEM files with the certificates between that one and the root, and the root.
    """

    key: Location
    certificate: Location | None = None
    chain: Sequence[Location] = ()

    @property
    def is_sigstore(self) -> bool:
        """Whether an identity of Sigstore signs, not a key."""
        return self.key == SIGSTORE

    def located(self) -> SigningKey:
        """Return the same with absolute paths, which stay right if the directory changes."""
        if self.is_sigstore:
            return self
        chain = tuple(map(_absolute, self.chain))
        certificate = None if self.certificate is None else _absolute(self.certificate)
        return SigningKey(_absolute(self.key), certificate, chain)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that must exist."""
        certificates = () if self.certificate is None else (self.certificate, *self.chain)
        return () if self.is_sigstore else tuple(map(Path, (self.key, *certificates)))


def _absolute(path: Location) -> Path:
    return Path(path).expanduser().absolute()


def signing_key(value: Location | SigningKey | None) -> SigningKey | None:
    """Return what to sign with; None if nothing is to be signed.

    Args:
        value: What the user passed; if None, the key that `MLFLOW_CKPT_SIGNING_KEY` names.

    Raises:
        InvalidArgumentError: If it is nothing that can sign, or a file does not exist.
    """
    name = "signing key"
    if value is None:
        name, value = KEY_VARIABLE, os.environ.get(KEY_VARIABLE) or None
    if value is None:
        return None
    if not isinstance(value, (str, os.PathLike, SigningKey)):
        raise ArgumentTypeError(f"Unrecognized {name}. Expected {_EXPECTED}. Received: {value!r}")
    key = value if isinstance(value, SigningKey) else SigningKey(value)
    if key.certificate is not None and not key.chain:
        raise InvalidArgumentError(
            "A certificate was passed without its chain. Expected the certificates up to the root "
            f"as well, in PEM files. Received: chain={key.chain!r}"
        )
    key = key.located()
    for file in key.files:
        if not file.is_file():
            raise InvalidArgumentError(
                f"Unrecognized {name}. Expected {_EXPECTED}. Received: {str(file)!r}, which is no "
                "file."
            )
    return key
