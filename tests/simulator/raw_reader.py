"""A client that reads pages of events as they come over the wire, without decoding them."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from tests.simulator.small_world import PASSWORD, USER, RunningSimulator

__all__ = ["RawReader", "created_in", "keys_in", "types_in"]

_EVENT = re.compile(
    rb'<returnval xsi:type="(\w+)"><key>(\d+)</key><chainId>\d+</chainId><createdTime>(.*?)</createdTime>'
)


def keys_in(page: bytes) -> list[int]:
    """The keys of a page's events, in order."""
    return [int(found[2]) for found in _EVENT.finditer(page)]


def types_in(page: bytes) -> list[str]:
    return [found[1].decode() for found in _EVENT.finditer(page)]


def created_in(page: bytes) -> list[datetime]:
    return [datetime.fromisoformat(found[3].decode()) for found in _EVENT.finditer(page)]


class RawReader:
    """Logged in, with at most one collector open."""

    def __init__(self, wire: RunningSimulator, api_version: str = "8.0.2.0") -> None:
        self._connection = http.client.HTTPSConnection("127.0.0.1", wire.simulator.port, context=wire.ssl_context())
        self._headers = {"SOAPAction": f"urn:vim25/{api_version}", "Content-Type": "text/xml"}
        self._collector = ""
        self.call("Login", "SessionManager", f"<userName>{USER}</userName><password>{PASSWORD}</password>")

    def __enter__(self) -> RawReader:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._connection.close()

    def call(self, operation: str, target: str, arguments: str = "") -> bytes:
        """Call an operation of the object `target`, which also names its type; returns the answer's body."""
        body = (
            '<?xml version="1.0"?><e:Envelope xmlns:e="http://schemas.xmlsoap.org/soap/envelope/"><e:Body>'
            f'<{operation} xmlns="urn:vim25"><_this type="Any">{target}</_this>{arguments}</{operation}>'
            "</e:Body></e:Envelope>"
        )
        self._connection.request("POST", "/sdk", body, self._headers)
        answer = self._connection.getresponse()
        content = answer.read()
        if cookie := answer.getheader("Set-Cookie"):
            self._headers["Cookie"] = cookie.partition(";")[0]
        assert answer.status == 200, content
        return content

    def open(self, filter_xml: str = "") -> None:
        """A new collector, before its first event; the one that was open is destroyed."""
        if self._collector:
            self.call("DestroyCollector", self._collector)
        made = self.call("CreateCollectorForEvents", "EventManager", f"<filter>{filter_xml}</filter>")
        found = re.search(rb'<returnval type="EventHistoryCollector">(.*?)<', made)
        assert found is not None, made
        self._collector = found[1].decode()

    def read(self, most: int = 1000) -> bytes:
        """The next page."""
        return self.call("ReadNextEvents", self._collector, f"<maxCount>{most}</maxCount>")

    def pages(self) -> Iterator[bytes]:
        """Pages until one is empty."""
        while b"<returnval" in (page := self.read()):
            yield page

    def rest(self) -> list[int]:
        """The keys of all pages until one is empty."""
        return [key for page in self.pages() for key in keys_in(page)]
