"""Posts events to a vCenter from a process of its own, for benchmarks: `python -m benchmarks.post_events ORDER`.

ORDER is JSON: `host`, `port`, `user`, `password`, and `moid` of the host that `HostAddedEvent`s are about. Requests are
made once and sent as bytes, many at a time where many are due, so that the poster is not the limit.

Each line on stdin is an order: `one` posts one event and answers with the time right before (s since 1970);
`storm RATE SECONDS` posts RATE events a second, of which one in a hundred is a `HostAddedEvent`, and answers with lines
of `TIME POSTED` as it goes, and `done`.
"""

from __future__ import annotations

import json
import socket
import ssl
import sys
import time
from datetime import UTC, datetime
from typing import Any

from pyVim.connect import Disconnect, SmartConnect
from pyVmomi import vim

MATCHING = 100
"""One in so many."""
_TICK_S = 0.02
_AT_ONCE = 200
_ACCEPTED, _REFUSED = b"HTTP/1.1 200", b"HTTP/1.1 "


class Poster:
    """One connection with requests that are ready."""

    def __init__(self, order: dict[str, Any]) -> None:
        context = ssl.create_default_context()
        # Only to make events: what is measured verifies the certificate.
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        address = (order["host"], order["port"])
        self._si = SmartConnect(
            host=address[0], port=address[1], user=order["user"], pwd=order["password"], sslContext=context
        )
        common = {"key": 0, "chainId": 0, "createdTime": datetime.now(UTC), "userName": ""}
        host = vim.event.HostEventArgument(host=vim.HostSystem(order["moid"]), name="esx")
        self.matching = self._request(vim.event.HostAddedEvent(**common, host=host), address)
        self.other = self._request(vim.event.GeneralUserEvent(**common, message="nothing to do"), address)
        raw = socket.create_connection(address)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket = context.wrap_socket(raw, server_hostname=address[0])

    def _request(self, event: Any, address: tuple[str, int]) -> bytes:
        stub, manager = self._si._stub, self._si.content.eventManager
        body = stub.SerializeRequest(manager, type(manager).PostEvent.info, [event, None])
        head = (
            f"POST {stub.path} HTTP/1.1\r\nHost: {address[0]}:{address[1]}\r\nCookie: {stub.cookie}\r\n"
            f"SOAPAction: {stub.versionId}\r\nContent-Type: text/xml; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + bytes(body)

    def post(self, requests: list[bytes]) -> None:
        """Send them all, and wait until each is answered; raises `RuntimeError` when one is refused."""
        self._socket.sendall(b"".join(requests))
        answer = b""
        while answer.count(_ACCEPTED) < len(requests) or not answer.endswith(b"Envelope>"):
            more = self._socket.recv(1 << 20)
            answer += more.rstrip()
            if not more or answer.count(_REFUSED) > answer.count(_ACCEPTED):
                raise RuntimeError(f"an event was refused: {answer[-2000:]!r}")

    def storm(self, rate_per_s: int, seconds: float) -> None:
        """Post at this rate, or as fast as it goes, and tell how far it is."""
        posted, began = 0, time.monotonic()
        while (passed_s := time.monotonic() - began) < seconds:
            due = min(int((passed_s + _TICK_S) * rate_per_s) - posted, _AT_ONCE)
            numbers = range(posted, posted + due)
            if due:
                self.post([self.other if number % MATCHING else self.matching for number in numbers])
            posted += due
            print(time.time(), posted, flush=True)
            time.sleep(max(0.0, began + posted / rate_per_s - time.monotonic()))
        print("done", flush=True)

    def close(self) -> None:
        """Log out."""
        self._socket.close()
        Disconnect(self._si)


def main() -> None:
    """Carry out orders until there are no more."""
    poster = Poster(json.loads(sys.argv[1]))
    print("ready", flush=True)
    for line in sys.stdin:
        what, *numbers = line.split()
        if what == "one":
            posted_at = time.time()
            poster.post([poster.matching])
            print(posted_at, flush=True)
        else:
            poster.storm(int(numbers[0]), float(numbers[1]))
    poster.close()


if __name__ == "__main__":
    main()
