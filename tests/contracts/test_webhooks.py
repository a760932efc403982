"""What may be said about webhooks in the configuration."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from contracts.webhooks import ForwardedEvents, WebhookSettings

GIVEN: dict[str, Any] = {"name": "router", "url": "https://hooks.example.com/in?key=abc", "notices": True}


def webhook(**more: Any) -> WebhookSettings:
    return WebhookSettings.model_validate({**GIVEN, **more})


@pytest.mark.parametrize("url", ["http://127.0.0.1:8080/", "http://localhost/x", "http://[::1]:80/", "https://a.b:444"])
def test_plain_http_is_for_this_machine_only(url: str) -> None:
    assert webhook(url=url).url == url


def test_elsewhere_it_has_to_be_said_loudly() -> None:
    with pytest.raises(ValidationError, match="without TLS"):
        webhook(url="http://hooks.example.com/")
    assert webhook(url="http://hooks.example.com/", insecure_http=True).insecure_http


def test_messages_tell_neither_path_nor_query() -> None:
    assert webhook().where == "webhook router (https://hooks.example.com)"


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"url": "hooks.example.com"}, "is not a webhook's address"),
        ({"url": "https://hooks.example.com:99999/"}, "is not a webhook's address"),
        ({"url": "ftp://hooks.example.com"}, "is not a webhook's address"),
        ({"url": "https://me:pw@hooks.example.com/"}, "no user, password or fragment"),
        ({"name": "Router 1"}, "pattern"),
        ({"notices": False}, "gets nothing"),
        ({"mode": "binary", "hmac_key_file": "key"}, "binary mode keeps attributes outside"),
        ({"token": "abc"}, "Extra inputs"),
        ({"timeout_s": 0}, "greater than 0"),
        ({"events": {"on": []}}, "at least 1"),
        ({"events": {"on": ["*"], "type": "x.{kind}"}}, "'{kind}' stands for nothing"),
        ({"events": {"on": ["*"], "type": ""}}, "not empty"),
    ],
)
def test_what_cannot_work_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        webhook(**wrong)
    assert words in str(caught.value)


def test_types_are_patterns_without_regard_for_letter_case() -> None:
    wanted = ForwardedEvents.model_validate({"on": ["VmPowered*", "com.vmware.vc.HA.*"]})
    assert wanted.fits_type("VmPoweredOnEvent")
    assert wanted.fits_type("com.vmware.vc.ha.VmRestartedByHAEvent", "EventEx")
    assert not wanted.fits_type("esx.problem.x", "EventEx")
    assert ForwardedEvents.model_validate({"on": ["*"]}).fits_type("anything")
