"""JSON over verified HTTPS, each call sent once: for vCenter's REST API and for BMCs.

It stands on `Endpoint`, so that REST is held to the same certificates (a bundle, or exactly one pinned) and timeouts
as SOAP; HTTP client libraries pin by host name and authority only.
"""

import base64
import json
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any, NamedTuple

from contracts.errors import BadRequest, Busy, Conflict, GpuwrightError, NeedsHuman, NotSupported, Unreachable
from vsphere.connection import Endpoint

__all__ = ["Answer", "basic_auth", "call", "refusal"]

_MAX_BODY = 64 * 2**20
_BY_STATUS: dict[int, type[GpuwrightError]] = {
    401: BadRequest,
    403: NeedsHuman,
    404: NotSupported,
    405: NotSupported,
    409: Conflict,
    412: Conflict,
    423: Busy,
    429: Busy,
    501: NotSupported,
    503: Unreachable,
}


class Answer(NamedTuple):
    """What a server answered: header names are lower case; `body` is the JSON value, None when empty."""

    status: int
    headers: Mapping[str, str]
    body: Any


def basic_auth(user: str, password: str) -> dict[str, str]:
    """The `Authorization` header."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def call(
    endpoint: Endpoint, method: str, path: str, *, headers: Mapping[str, str] | None = None, body: Any = None
) -> Answer:
    """Send one request on a connection of its own and return the answer, whatever its status.

    Raises `Unreachable` when no usable answer came: for anything but a GET it is then unknown whether it was done.
    """
    connection = endpoint.connect()
    what = f"{endpoint.where}: {method} {path}"
    sent = {"Accept": "application/json", **(headers or {})}
    data = None
    if body is not None:
        data, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
    elif method in ("POST", "PUT", "PATCH"):
        sent["Content-Length"] = "0"
    try:
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        raw = response.read(_MAX_BODY + 1)
    except (OSError, HTTPException) as error:
        doubt = "" if method == "GET" else "; unknown whether it was carried out: look before trying again"
        raise Unreachable(f"{what} got no usable answer ({type(error).__name__}: {error}){doubt}") from error
    finally:
        connection.close()
    if len(raw) > _MAX_BODY:
        raise Unreachable(f"{what} answered with more than {_MAX_BODY} bytes")
    found = {name.lower(): value for name, value in response.getheaders()}
    try:
        return Answer(response.status, found, json.loads(raw) if raw.strip() else None)
    except ValueError as error:
        if response.status >= 400:
            # A proxy's or a starting server's error page: the status says enough.
            return Answer(response.status, found, None)
        raise Unreachable(f"{what} did not answer with JSON: {error}") from error


def refusal(what: str, answer: Answer, words: str) -> GpuwrightError:
    """The error that an answer with status 400 or more means, with the server's own words."""
    default = Unreachable if answer.status in (500, 502, 504) else BadRequest
    meaning = _BY_STATUS.get(answer.status, default)
    return meaning(f"{what}: HTTP status {answer.status}" + (f": {words}" if words else ""))
