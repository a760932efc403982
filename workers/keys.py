"""Ed25519 keys in files: whose decisions count, and with what the service or a person signs."""

import os
from collections.abc import Iterable
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from contracts.errors import BadRequest, Conflict
from contracts.signing import key_id

__all__ = ["load_private_key", "load_public_keys", "new_key"]

_MAKE = "make a pair with `gpuwright keys new`"


def new_key(private_file: Path, public_file: Path) -> str:
    """Write a new key pair as PEM, the private key readable for its owner only; the key's ID.

    Raises `Conflict` rather than overwrite a file, `BadRequest` where a file cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    written: list[Path] = []
    try:
        for path, content, mode in ((private_file, private, 0o600), (public_file, public, 0o644)):
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
                written.append(path)
                file.write(content)
    except OSError as error:
        for path in written:
            path.unlink()
        if isinstance(error, FileExistsError):
            raise Conflict(f"{error.filename} exists and is not overwritten; move it away or choose another") from error
        raise BadRequest(f"{error.filename} cannot be written: {error.strerror}") from error
    return key_id(key.public_key())


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """The private key in a PEM file; raises `BadRequest`."""
    try:
        key = load_pem_private_key(_read(path), password=None)
    except (ValueError, TypeError) as error:
        raise BadRequest(f"{path} holds no unencrypted private key in PEM ({error}); {_MAKE}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadRequest(f"{path} holds a key of another kind than Ed25519; {_MAKE}")
    return key


def load_public_keys(paths: Iterable[Path]) -> list[Ed25519PublicKey]:
    """The public keys in PEM files; raises `BadRequest` for the first that holds none."""
    keys = []
    for path in paths:
        try:
            key = load_pem_public_key(_read(path))
        except ValueError as error:
            raise BadRequest(f"{path} holds no public key in PEM ({error}); {_MAKE}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise BadRequest(f"{path} holds a key of another kind than Ed25519; {_MAKE}")
        keys.append(key)
    return keys


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise BadRequest(f"the key file {path} cannot be read: {error.strerror}; {_MAKE}") from error
