"""What is sent to a webhook, what its answers mean, and what nobody gets to see."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import trustme
from aiohttp import web

from activities.webhooks import SIGNATURE, Webhooks
from contracts.cloud_events import CloudEvent
from contracts.errors import BadRequest, GpuwrightError, NeedsHuman, Unreachable, to_application_error
from contracts.webhooks import WebhookSettings
from tests.support.webhook_receiver import TOKEN, Receiver, Request, dropped, hanging


@pytest_asyncio.fixture
async def receiver(tmp_path: Path) -> AsyncIterator[Receiver]:
    async with Receiver(tmp_path) as receiver:
        yield receiver


def event(number: int = 1, **more: Any) -> CloudEvent:
    return CloudEvent(id=f"e/{number}", source="https://vc/sdk", type="com.example.Thing", data={"Key": number}, **more)


async def sent(settings: WebhookSettings, *events: CloudEvent) -> None:
    async with Webhooks([settings]) as webhooks:
        await webhooks.send(settings.name, events)


async def failed(settings: WebhookSettings, *events: CloudEvent) -> GpuwrightError:
    with pytest.raises(GpuwrightError) as caught:
        await sent(settings, *(events or [event()]))
    return caught.value


def answering(status: int, text: str = "", **headers: str) -> Callable[[Request], web.Response]:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda _: web.Response(status=status, text=text, headers=named)


@pytest.mark.parametrize(("mode", "requests"), [("structured", 2), ("binary", 2), ("batch", 1)])
async def test_each_mode_brings_the_same_events_in_order(receiver: Receiver, mode: str, requests: int) -> None:
    events = [event(1, subject="Größe", extensions={"eventclass": "event"}), event(2, time=datetime.now(UTC))]
    await sent(receiver.settings(mode=mode), *events)
    assert len(receiver.requests) == requests
    assert receiver.taken == [{**each.attributes, "data": each.data} for each in events]
    assert {request.headers["Authorization"] for request in receiver.requests} == {f"Bearer {TOKEN}"}


async def test_a_large_event_is_sent_whole(receiver: Receiver) -> None:
    large = CloudEvent(id="e/1", source="https://vc/sdk", type="com.example.Large", data="x" * 5_000_000)
    await sent(receiver.settings(), large)
    assert receiver.taken[0]["data"] == large.data
    assert "Transfer-Encoding" not in receiver.requests[0].headers


async def test_an_empty_batch_is_not_sent(receiver: Receiver) -> None:
    await sent(receiver.settings(mode="batch"))
    assert receiver.requests == []


async def test_a_signed_body_is_verified_by_who_has_the_key(receiver: Receiver, tmp_path: Path) -> None:
    (tmp_path / "key").write_text("the key\n")
    await sent(receiver.settings(hmac_key_file=tmp_path / "key"), event())
    [request] = receiver.requests
    parts = dict(part.split("=") for part in request.headers[SIGNATURE].split(","))
    assert abs(int(parts["t"]) - time.time()) < 60
    wanted = hmac.new(b"the key", parts["t"].encode() + b"." + request.body, hashlib.sha256).hexdigest()
    assert hmac.compare_digest(parts["v1"], wanted)


async def test_a_token_that_is_changed_counts_from_the_next_request_on(receiver: Receiver) -> None:
    async with Webhooks([receiver.settings()]) as webhooks:
        await webhooks.send("hook", [event()])
        receiver.token_file.write_text("another")
        await webhooks.send("hook", [event()])
    assert [request.headers["Authorization"] for request in receiver.requests] == [f"Bearer {TOKEN}", "Bearer another"]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
async def test_who_is_in_trouble_is_tried_again(receiver: Receiver, status: int) -> None:
    receiver.behaviour = answering(status, "later")
    error = await failed(receiver.settings())
    assert type(error) is Unreachable
    assert str(error).startswith(f"webhook hook (https://127.0.0.1:{receiver.port}) answered {status} ")
    assert str(error).endswith(": later")
    assert error.retry_after_s is None


@pytest.mark.parametrize(
    ("said", "pause_s"),
    [
        ("7", 7),
        ("999999", 300),
        (lambda: format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True), 60),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
    ],
)
async def test_a_pause_that_is_asked_for_is_kept(receiver: Receiver, said: Any, pause_s: float | None) -> None:
    receiver.behaviour = answering(503, Retry_After=said() if callable(said) else said)
    error = await failed(receiver.settings())
    assert error.retry_after_s == (
        pause_s if pause_s is None else pytest.approx(pause_s, abs=20 if pause_s == 60 else 0)
    )
    delay = to_application_error(error).next_retry_delay
    assert delay == (timedelta(seconds=error.retry_after_s) if error.retry_after_s else None)


@pytest.mark.parametrize("status", [401, 403, 404, 405, 410])
async def test_what_people_have_to_mend_is_told_as_such(receiver: Receiver, status: int) -> None:
    receiver.behaviour = answering(status)
    error = await failed(receiver.settings())
    assert type(error) is NeedsHuman
    assert "correct 'url'" in str(error)


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
async def test_a_refused_event_is_told_in_the_words_of_the_webhook(receiver: Receiver, status: int) -> None:
    receiver.behaviour = answering(status, "no\n such   thing " + "x" * 5000)
    error = await failed(receiver.settings())
    assert type(error) is BadRequest
    assert f"answered {status}" in str(error)
    assert ": no such thing xxx" in str(error)
    assert len(str(error)) < 500


async def test_a_redirection_is_not_followed(receiver: Receiver, tmp_path: Path) -> None:
    receiver.behaviour = answering(307, Location=f"https://127.0.0.1:{receiver.port}/elsewhere")
    error = await failed(receiver.settings())
    assert type(error) is NeedsHuman
    assert "redirection" in str(error)
    assert [request.path for request in receiver.requests] == ["/hook"]


async def test_a_connection_that_is_dropped_can_be_tried_again(receiver: Receiver) -> None:
    receiver.behaviour = dropped
    assert type(await failed(receiver.settings())) is Unreachable


async def test_a_webhook_that_hangs_is_given_up_in_time(receiver: Receiver) -> None:
    receiver.behaviour = hanging
    error = await failed(receiver.settings(timeout_s=0.3))
    assert type(error) is Unreachable
    assert "no answer within 0.3 s" in str(error)


async def test_an_answer_without_end_costs_nothing(receiver: Receiver) -> None:
    async def endless(request: Request) -> web.StreamResponse:
        answer = web.StreamResponse(status=500)
        await answer.prepare(request.raw)
        try:
            while True:
                await answer.write(b"x" * 65536)
        except (ConnectionError, OSError):
            return answer

    receiver.behaviour = endless
    begun_at = time.monotonic()
    error = await failed(receiver.settings(timeout_s=30))
    assert type(error) is Unreachable
    assert len(str(error)) < 500
    assert time.monotonic() - begun_at < 20


async def test_a_webhook_that_is_gone_can_be_tried_again(receiver: Receiver) -> None:
    settings = receiver.settings()
    await receiver.stop()
    assert type(await failed(settings)) is Unreachable
    await receiver.start()
    await sent(settings, event())
    assert len(receiver.taken) == 1


async def test_a_certificate_of_somebody_else_is_refused(receiver: Receiver, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    error = await failed(receiver.settings(ca_file=other))
    assert type(error) is Unreachable
    assert "certificate" in str(error).lower()
    error = await failed(receiver.settings(ca_file=None))
    assert "certificate" in str(error).lower()
    error = await failed(receiver.settings(url=f"https://localhost:{receiver.port}/hook"))
    assert "certificate" in str(error).lower()
    assert receiver.requests == []


async def test_an_authority_that_is_mended_counts_without_a_restart(receiver: Receiver, tmp_path: Path) -> None:
    ca_file = tmp_path / "mine.pem"
    trustme.CA().cert_pem.write_to_path(str(ca_file))
    settings = receiver.settings(ca_file=ca_file)
    async with Webhooks([settings]) as webhooks:
        with pytest.raises(Unreachable):
            await webhooks.send("hook", [event()])
        ca_file.write_bytes(receiver.ca_file.read_bytes())
        await webhooks.send("hook", [event()])
    assert len(receiver.taken) == 1


async def test_the_first_failure_ends_the_sending(receiver: Receiver) -> None:
    receiver.behaviour = lambda request: web.Response(status=503) if request.ids == ["e/2"] else None
    await failed(receiver.settings(), event(1), event(2), event(3))
    assert [request.ids for request in receiver.requests] == [["e/1"], ["e/2"]]


async def test_secrets_are_in_no_error(receiver: Receiver, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "key").write_text("key-of-hmac")
    secrets = ("key-of-hmac", TOKEN, "path-as-token", "query-as-token")
    url = f"https://127.0.0.1:{receiver.port}/path-as-token?key=query-as-token"
    settings = receiver.settings(hmac_key_file=tmp_path / "key", url=url)
    errors = []
    for status in (500, 400, 401, 302):
        receiver.behaviour = lambda request, status=status: web.Response(  # type: ignore[misc]
            status=status, text=f"you said {request.headers['Authorization']} key-of-hmac to {request.raw.path_qs}"
        )
        errors.append(await failed(settings))
    receiver.behaviour = dropped
    errors.append(await failed(settings))
    await receiver.stop()
    errors.append(await failed(settings))
    told = "".join(
        f"{error!r} {error.__cause__!r} {error.__context__ if not error.__suppress_context__ else ''}"
        for error in errors
    )
    out, err = capfd.readouterr()
    for secret in secrets:
        assert secret not in told + out + err


async def test_a_secret_that_cannot_be_read_is_named(receiver: Receiver, tmp_path: Path) -> None:
    error = await failed(receiver.settings(token_file=tmp_path / "none"))
    assert type(error) is NeedsHuman
    assert f"{tmp_path / 'none'} cannot be read" in str(error)
    (tmp_path / "none").write_text("\n")
    assert "holds no secret" in str(await failed(receiver.settings(token_file=tmp_path / "none")))


async def test_a_webhook_that_is_not_configured_is_refused(receiver: Receiver) -> None:
    async with Webhooks([receiver.settings()]) as webhooks:
        with pytest.raises(BadRequest, match=r"no webhook 'other'.*there is: hook"):
            await webhooks.send("other", [event()])


async def test_sending_without_tls_is_said_at_the_start(capfd: pytest.CaptureFixture[str]) -> None:
    Webhooks([WebhookSettings(name="lab", url="http://hooks.example.com/", insecure_http=True, notices=True)])
    out, err = capfd.readouterr()
    assert "webhook_without_tls" in out + err
