"""Sending CloudEvents to webhooks over HTTP.

With a key, each request is signed: `Gpuwright-Signature: t=SECONDS,v1=HEX`, where `t` is the time of sending (Unix
time) and HEX the HMAC-SHA256 over `SECONDS.BODY`. Receivers compute it anew, compare in constant time, and refuse what
is older than a few minutes.
"""

import hashlib
import hmac
import io
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import aiohttp
import structlog

from contracts.cloud_events import CloudEvent, WireMessage, batch_message, binary_message, structured_message
from contracts.errors import BadRequest, GpuwrightError, NeedsHuman, Unreachable
from contracts.webhooks import WebhookSettings

__all__ = ["SIGNATURE", "Webhooks", "signature"]

_log = structlog.get_logger(__name__)

SIGNATURE = "Gpuwright-Signature"
_USER_AGENT = "gpuwright"
_ANSWER_LIMIT = 300
"""Characters of an answer that are told."""
_LONGEST_PAUSE_S = 300.0
"""A webhook that asks for a longer pause is asked again after this."""
_TRY_AGAIN = frozenset({408, 425, 429})
_MENDED_BY_PEOPLE = frozenset({401, 403, 404, 405, 407, 410})


def signature(key: bytes, body: bytes, at: int) -> str:
    """The value of the header `SIGNATURE` for a body that is sent at this Unix time."""
    return f"t={at},v1={hmac.new(key, b'%d.' % at + body, hashlib.sha256).hexdigest()}"


class Webhooks:
    """The webhooks of a service, by name. Use it as a context manager, or call `close` at the end."""

    def __init__(self, settings: Sequence[WebhookSettings]) -> None:
        self._settings = {webhook.name: webhook for webhook in settings}
        self._session: aiohttp.ClientSession | None = None
        self._trusted: dict[str, ssl.SSLContext] = {}
        for webhook in settings:
            if webhook.insecure_http:
                _log.warning("webhook_without_tls", webhook=webhook.name, address=webhook.address)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections. Safe to call twice."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def send(self, name: str, events: Sequence[CloudEvent]) -> None:
        """Send events once, in order; returns when the webhook has answered 2xx to all of them.

        In batch mode it is one request, else one for each event, and the first that fails ends it. Raises
        `Unreachable` when trying again can help (`retry_after_s` tells when, where the webhook said so), `NeedsHuman`
        when somebody has to mend the address or the login first, and `BadRequest` when the webhook refuses an event
        for good; send one alone to know which. Nothing is followed to another address. No secret is in an error.
        """
        webhook = self._settings.get(name)
        if webhook is None:
            known = ", ".join(sorted(self._settings)) or "none"
            raise BadRequest(f"there is no webhook {name!r} in the configuration; there is: {known}")
        if webhook.mode == "batch":
            if events:
                await self._post(webhook, batch_message(events))
            return
        for event in events:
            form = binary_message if webhook.mode == "binary" else structured_message
            await self._post(webhook, form(event))

    async def _post(self, webhook: WebhookSettings, message: WireMessage) -> None:
        token = _secret(webhook, webhook.token_file, "token_file")
        key = _secret(webhook, webhook.hmac_key_file, "hmac_key_file")
        headers = dict(message.headers)
        if token:
            headers["Authorization"] = f"Bearer {token}"
        if key:
            headers[SIGNATURE] = signature(key.encode(), message.body, int(time.time()))
        try:
            async with self._opened().post(
                webhook.url,
                # Large ones as a file: aiohttp sends those piece by piece.
                data=io.BytesIO(message.body),
                headers=headers,
                ssl=self._trust(webhook),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=webhook.timeout_s),
            ) as answer:
                if 200 <= answer.status < 300:
                    return
                text = await _beginning(answer)
                raise _refusal(webhook, answer, _without(text, token, key, _target(webhook)))
        except TimeoutError:
            raise Unreachable(f"{webhook.where}: no answer within {webhook.timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # The authority may have changed: its file is read again with the next request.
            self._trusted.pop(webhook.name, None)
            raise Unreachable(f"{webhook.where}: {_words(error)[:_ANSWER_LIMIT]}") from None

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            # Webhooks share nothing that one of them could set, and each may have all its requests under way.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": _USER_AGENT},
            )
        return self._session

    def _trust(self, webhook: WebhookSettings) -> ssl.SSLContext:
        if webhook.name not in self._trusted:
            try:
                self._trusted[webhook.name] = ssl.create_default_context(cafile=webhook.ca_file)
            except (OSError, ssl.SSLError) as error:
                raise NeedsHuman(
                    f"{webhook.where}: the authorities in {webhook.ca_file} cannot be read ({error}); correct 'ca_file'"
                ) from error
        return self._trusted[webhook.name]


def _secret(webhook: WebhookSettings, file: Path | None, what: str) -> str:
    if file is None:
        return ""
    try:
        text = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise NeedsHuman(
            f"webhook {webhook.name}: {file} cannot be read ({error}); create it, readable for the service's user "
            f"only, or correct '{what}'"
        ) from error
    if not text or not text.isprintable():
        raise NeedsHuman(f"webhook {webhook.name}: {file} ('{what}') holds no secret of one line; write one into it")
    return text


async def _beginning(answer: aiohttp.ClientResponse) -> str:
    """The first characters of an answer's body, on one line; as much as there is when it breaks off."""
    try:
        body = await answer.content.read(4 * _ANSWER_LIMIT)
    except (aiohttp.ClientError, OSError):
        return ""
    finally:
        # Not read to its end: the webhook may have no end of it.
        answer.close()
    return " ".join(body.decode(errors="replace").split())


def _refusal(webhook: WebhookSettings, answer: aiohttp.ClientResponse, text: str) -> GpuwrightError:
    status = answer.status
    said = f"{webhook.where} answered {status} {answer.reason or ''}".rstrip()
    if text:
        said += f": {text[:_ANSWER_LIMIT]}"
    if 300 <= status < 400:
        return NeedsHuman(f"{said} (a redirection, which is not followed); write the final address as 'url'")
    if status in _MENDED_BY_PEOPLE:
        return NeedsHuman(f"{said}; correct 'url', or the token or the permissions there")
    if status in _TRY_AGAIN or status >= 500:
        return Unreachable(said, retry_after_s=_retry_after(answer.headers.get("Retry-After", "")))
    return BadRequest(said)


def _retry_after(text: str) -> float | None:
    """Seconds, from seconds or a date (RFC 9110); None where nothing usable is said."""
    try:
        seconds = float(text) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (TypeError, ValueError, OverflowError):
        return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE_S)


def _without(text: str, *secrets: str) -> str:
    for secret in filter(None, secrets):
        text = text.replace(secret, "…")
    return text


def _target(webhook: WebhookSettings) -> str:
    """Path and query, which are as good as a token with many webhooks."""
    parts = urlsplit(webhook.url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    return target if len(target) > 1 else ""


def _words(error: Exception) -> str:
    """Without the whole address, which the error of a malformed answer has in it."""
    if isinstance(error, aiohttp.ClientResponseError):
        return f"it does not speak HTTP as it should: {type(error).__name__}"
    return str(error) or type(error).__name__
