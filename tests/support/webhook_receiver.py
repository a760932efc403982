"""A webhook over TLS on 127.0.0.1 that keeps what it gets, and can be out of order in the ways that webhooks are."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from typing import Any
from urllib.parse import unquote

import trustme
from aiohttp import web

from contracts.webhooks import WebhookSettings

__all__ = ["TOKEN", "Receiver", "Request", "dropped", "hanging"]

TOKEN = "s3cret-token-of-the-webhook"
Behaviour = Callable[["Request"], "web.StreamResponse | Awaitable[web.StreamResponse | None] | None"]
"""What is answered to a request; None: 204, and its events count as taken."""


@dataclass(frozen=True)
class Request:
    """One request, with the events in it as the JSON format has them."""

    headers: dict[str, str]
    path: str
    body: bytes
    events: list[dict[str, Any]]
    raw: web.Request

    @property
    def ids(self) -> list[str]:
        return [event["id"] for event in self.events]


def dropped(request: Request) -> web.StreamResponse:
    """Close the connection without an answer."""
    assert request.raw.transport is not None
    request.raw.transport.abort()
    return web.Response()


async def hanging(_: Request) -> web.StreamResponse:
    """Do not answer for longer than anybody waits."""
    await asyncio.sleep(60)
    return web.Response(status=504)


class Receiver:
    """`async with Receiver(folder) as receiver`; `settings(...)` are a webhook's that goes there."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        authority = trustme.CA()
        self.ca_file, self.token_file = folder / "webhook-ca.pem", folder / "token"
        authority.cert_pem.write_to_path(str(self.ca_file))
        self.token_file.write_text(TOKEN + "\n")
        self._context = SSLContext(PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self._context)
        self._runner: web.AppRunner | None = None
        self.port = 0
        self.requests: list[Request] = []
        """All that arrived, in order."""
        self.taken: list[dict[str, Any]] = []
        """Events that were answered 2xx, in order."""
        self.behaviour: Behaviour = lambda _: None
        self.most_at_once = 0
        self._at_once = 0

    @property
    def times(self) -> Counter[str]:
        """How often each event was taken, by ID."""
        return Counter(event["id"] for event in self.taken)

    def settings(self, name: str = "hook", **more: Any) -> WebhookSettings:
        given = {"url": f"https://127.0.0.1:{self.port}/hook", "ca_file": self.ca_file, "token_file": self.token_file}
        return WebhookSettings.model_validate({"name": name, "notices": True, **given, **more})

    async def __aenter__(self) -> Receiver:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin, or begin again at the same address."""
        application = web.Application(client_max_size=2**26)
        application.router.add_post("/{path:.*}", self._take)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=self._context, reuse_address=True)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """End, as a process that dies: connections are refused."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def _take(self, raw: web.Request) -> web.StreamResponse:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            body = await raw.read()
            request = Request(dict(raw.headers), raw.path, body, _events(raw, body), raw)
            self.requests.append(request)
            answer = self.behaviour(request)
            if isinstance(answer, Awaitable) and not isinstance(answer, web.StreamResponse):
                answer = await answer
            if answer is None:
                self.taken += request.events
                return web.Response(status=204)
            assert isinstance(answer, web.StreamResponse)
            return answer
        finally:
            self._at_once -= 1


def _events(raw: web.Request, body: bytes) -> list[dict[str, Any]]:
    match raw.content_type:
        case "application/cloudevents+json":
            return [json.loads(body)]
        case "application/cloudevents-batch+json":
            events: list[dict[str, Any]] = json.loads(body)
            return events
        case _:
            attributes = {
                name.lower().removeprefix("ce-"): unquote(value)
                for name, value in raw.headers.items()
                if name.lower().startswith("ce-")
            }
            return [{**attributes, "datacontenttype": raw.headers["Content-Type"], "data": json.loads(body)}]
