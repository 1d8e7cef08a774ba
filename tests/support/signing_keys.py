"""Keys and certificates to sign with."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class KeyPair:
    """Files with a private key and its public key."""

    private: Path
    public: Path


def write_pair(directory: Path, name: str, key: Any = None, password: str = "") -> KeyPair:
    """Write a key, by default a new one on P-256, and its public key as PEM files."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    encryption: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if password:
        encryption = serialization.BestAvailableEncryption(password.encode())
    pair = KeyPair(directory / f"{name}.pem", directory / f"{name}.pub")
    pair.private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    )
    pair.public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return pair


def write_rsa_pair(directory: Path) -> KeyPair:
    """Write a key of a kind that is not supported."""
    return write_pair(directory, "rsa", rsa.generate_private_key(65537, 2048))


@dataclass(frozen=True)
class Certified:
    """Files with a private key, its certificate, and that of the root that issued it."""

    private: Path
    certificate: Path
    root: Path


def write_certified(directory: Path, name: str) -> Certified:
    """Write a root certificate, and a key with a certificate that it issued."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    files = Certified(
        write_pair(directory, name, key).private,
        directory / f"{name}.crt",
        directory / f"{name}-root.crt",
    )
    root = _certificate(f"root of {name}", root_key, f"root of {name}", root_key, is_root=True)
    files.root.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    issued = _certificate(name, key, f"root of {name}", root_key, is_root=False)
    files.certificate.write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    return files


def _certificate(
    subject: str, key: Any, issuer: str, issuer_key: Any, *, is_root: bool
) -> x509.Certificate:
    now = datetime.now(UTC)
    usage = {
        "digital_signature": not is_root, "key_cert_sign": is_root, "crl_sign": is_root,
        "content_commitment": False, "key_encipherment": False, "data_encipherment": False,
        "key_agreement": False, "encipher_only": False, "decipher_only": False,
    }  # fmt: skip
    return (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1 if is_root else 0, minutes=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=is_root, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(**usage), critical=True)
        .sign(issuer_key, hashes.SHA256())
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
