"""The part of sigstore's `model-signing` that this package uses.

The library hashes directories itself. Here it gets the digests that the manifest lists, which were
compared with the files already, so nothing is read twice. What it documents is used, but for
`Digest`, the type of the values in its public `Manifest`.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow_ckpt._format.digest import Digest
from mlflow_ckpt._format.layout import SIGNATURE
from mlflow_ckpt._format.signing.keys import PASSWORD_VARIABLE, TOKEN_VARIABLE, SigningKey
from mlflow_ckpt.errors import SignatureError, SigningError

if TYPE_CHECKING:
    from model_signing import hashing, verifying

INSTALL = "pip install 'mlflow-ckpt[signing]'"

# SHA-256 by POSIX path relative to the signed directory.
Digests = Mapping[str, Digest]


def is_installed() -> bool:
    """Whether `model-signing` is installed."""
    return find_spec("model_signing") is not None


def sign(name: str, digests: Digests, key: SigningKey, target: Path) -> None:
    """Write a signature over files.

    Args:
        name: The directory's name, which a signature mentions.
        digests: The files.
        key: What to sign with.
        target: The file to write.

    Raises:
        SigningError: If that fails.
    """
    if not is_installed():
        raise SigningError(f"Checkpoints are signed by model-signing. Install it: {INSTALL}")
    with _translated(key):
        from model_signing import signing

        config = signing.Config().set_hashing_config(_known(digests))
        _use_key(config, key)
        config.sign(name, target)


def _use_key(config: Any, key: SigningKey) -> None:
    if key.is_sigstore:
        config.use_sigstore_signer(identity_token=_identity_token())
    elif key.certificate is not None:
        config.use_certificate_signer(
            private_key=key.key, signing_certificate=key.certificate, certificate_chain=key.chain
        )
    else:
        password = os.environ.get(PASSWORD_VARIABLE)
        # Declared as text, and passed on to `cryptography`, which takes bytes.
        encoded: Any = None if password is None else password.encode()
        config.use_elliptic_key_signer(private_key=key.key, password=encoded)


def _identity_token() -> str:
    """Return an OpenID Connect token, without asking a person: a training may be signing."""
    from sigstore.oidc import detect_credential

    token = os.environ.get(TOKEN_VARIABLE) or detect_credential()
    if not token:
        raise SigningError(
            "Sigstore needs an identity to sign with. Expected an OpenID Connect token in "
            f"{TOKEN_VARIABLE}, or a CI service that issues one. Found neither: set the variable, "
            "or sign with a key."
        )
    return str(token)


@contextmanager
def _translated(key: SigningKey) -> Iterator[None]:
    try:
        yield
    except SigningError:
        raise
    except Exception as error:
        # Of the key's file, the network, or Sigstore: the library documents none of them.
        raise SigningError(
            f"Signing with {'Sigstore' if key.is_sigstore else key.key} failed: "
            f"{type(error).__name__}: {error}. Expected a PEM file with an EC private key on the "
            f"curve P-256, P-384 or P-521 (its password, if any, in {PASSWORD_VARIABLE}), or "
            "'sigstore' and a network."
        ) from error


def verify_key(signature: Path, digests: Digests, public_key: Path) -> None:
    """Check that the owner of a key signed exactly these files.

    Raises:
        SignatureError: If not.
    """
    _verify(
        lambda config: config.use_elliptic_key_verifier(public_key=public_key), signature, digests
    )


def verify_certificate(signature: Path, digests: Digests, roots: Sequence[Path]) -> None:
    """Check that the owner of a certificate issued below a root signed exactly these files.

    Raises:
        SignatureError: If not.
    """
    _verify(
        lambda config: config.use_certificate_verifier(certificate_chain=roots), signature, digests
    )


def verify_identity(signature: Path, digests: Digests, identity: str, issuer: str) -> None:
    """Check that an identity of Sigstore signed exactly these files.

    Raises:
        SignatureError: If not.
    """
    _verify(
        lambda config: config.use_sigstore_verifier(identity=identity, oidc_issuer=issuer),
        signature,
        digests,
    )


def _verify(use: Callable[[verifying.Config], object], signature: Path, digests: Digests) -> None:
    if not is_installed():
        raise SignatureError(f"signatures are verified by model-signing. Install it: {INSTALL}")
    from model_signing import verifying

    config = verifying.Config().set_hashing_config(_known(digests))
    try:
        use(config)
        config.verify(Path(SIGNATURE), signature)
    except Exception as error:
        # The file is anybody's: whatever it makes the library raise, it is no valid signature.
        raise SignatureError(f"{type(error).__name__}: {error}".rstrip(": ")) from error


def _known(digests: Digests) -> hashing.Config:
    """Return a configuration that knows the digests of the files instead of hashing them."""
    from model_signing import hashing, manifest
    from model_signing._hashing.hashing import Digest as SignedDigest

    class Known(hashing.Config):
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]

        def hash(self, model_path: Any, *, files_to_hash: Any = None) -> manifest.Manifest:  # noqa: ARG002
            serialization = manifest.SerializationType.from_args(
                {
                    "method": "files",
                    "hash_type": "sha256",
                    "allow_symlinks": False,
                    "ignore_paths": [SIGNATURE],
                }
            )
            items = [
                serialization.new_item(path, SignedDigest("sha256", bytes.fromhex(digest.value)))
                for path, digest in sorted(digests.items())
            ]
            return manifest.Manifest(Path(model_path).name, items, serialization)

    return Known()
