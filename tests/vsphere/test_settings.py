from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from contracts.errors import BadRequest
from vsphere.settings import VCenterSettings


def settings(**changes: Any) -> VCenterSettings:
    fields = {"name": "lab", "url": "https://vc.example.com", "user": "svc", "password_env": "LAB_PASSWORD"}
    return VCenterSettings(**{k: v for k, v in (fields | changes).items() if v is not None})


@pytest.mark.parametrize(
    ("url", "host", "port"),
    [
        ("https://vc.example.com", "vc.example.com", 443),
        ("vc.example.com:8443", "vc.example.com", 8443),
        ("https://vc.example.com/sdk", "vc.example.com", 443),
        ("https://[2001:db8::1]:444", "2001:db8::1", 444),
    ],
)
def test_an_address_gives_host_and_port(url: str, host: str, port: int) -> None:
    made = settings(url=url)
    assert (made.host, made.port) == (host, port)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "Lab_1"}, "pattern"),
        ({"url": "http://vc.example.com"}, "not a vCenter address"),
        ({"url": "https://vc.example.com/ui"}, "has a path"),
        ({"url": "https://me:secret@vc.example.com"}, "must not hold a password"),
        ({"password_env": None}, "exactly one of 'password_file' and 'password_env'"),
        ({"password_file": "/x"}, "exactly one of 'password_file' and 'password_env'"),
        ({"ca_file": "/a", "server_cert_file": "/b"}, "at most one of 'ca_file'"),
        ({"server_cert_file": "/b", "insecure_skip_verify": True}, "at most one of 'ca_file'"),
        ({"pasword": "x"}, "Extra inputs"),
    ],
)
def test_wrong_settings_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        settings(**changes)


def test_the_password_is_read_anew_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "password"
    made = settings(password_env=None, password_file=file)
    file.write_text("first\n")
    assert made.password().get_secret_value() == "first"
    file.write_text(" second ")
    assert made.password().get_secret_value() == " second "
    assert "second" not in f"{made!r} {made.password()!r}"


def test_a_missing_password_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LAB_PASSWORD", raising=False)
    with pytest.raises(BadRequest, match="environment variable LAB_PASSWORD holds no password"):
        settings().password()
    with pytest.raises(BadRequest, match="nowhere cannot be read"):
        settings(password_env=None, password_file=tmp_path / "nowhere").password()
