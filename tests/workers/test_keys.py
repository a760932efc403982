from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from contracts.errors import BadRequest, Conflict
from contracts.signing import key_id
from workers.keys import load_private_key, load_public_keys, new_key


def test_new_pair_belongs_together_and_the_private_key_is_private(tmp_path: Path) -> None:
    private, public = tmp_path / "alice", tmp_path / "alice.pub"
    name = new_key(private, public)
    assert private.stat().st_mode & 0o777 == 0o600
    [loaded] = load_public_keys([public])
    assert key_id(loaded) == key_id(load_private_key(private).public_key()) == name


@pytest.mark.parametrize("existing", ["alice", "alice.pub"])
def test_nothing_is_overwritten_and_nothing_half_made_is_left(tmp_path: Path, existing: str) -> None:
    (tmp_path / existing).write_text("precious")
    with pytest.raises(Conflict, match=f"{existing} exists and is not overwritten"):
        new_key(tmp_path / "alice", tmp_path / "alice.pub")
    assert [path.name for path in tmp_path.iterdir()] == [existing]
    assert (tmp_path / existing).read_text() == "precious"


def test_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadRequest, match="nowhere/alice cannot be written: No such file"):
        new_key(tmp_path / "nowhere" / "alice", tmp_path / "alice.pub")


def test_files_that_hold_no_such_key_are_refused(tmp_path: Path) -> None:
    rsa = generate_private_key(public_exponent=65537, key_size=2048)
    private, public, junk = tmp_path / "rsa", tmp_path / "rsa.pub", tmp_path / "junk"
    private.write_bytes(rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    junk.write_text("junk")
    for path, complaint in [(private, "another kind than Ed25519"), (junk, "no unencrypted private key")]:
        with pytest.raises(BadRequest, match=complaint):
            load_private_key(path)
    for path, complaint in [(public, "another kind than Ed25519"), (junk, "no public key in PEM")]:
        with pytest.raises(BadRequest, match=complaint):
            load_public_keys([path])
