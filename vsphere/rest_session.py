"""A session of vCenter's REST API (`/api`, vSphere Automation API): logged in once, each call sent once."""

from typing import Any
from urllib.parse import quote

from contracts.errors import BadRequest, Conflict, GpuwrightError, NotSupported
from vsphere import rest
from vsphere.connection import Endpoint
from vsphere.settings import VCenterSettings

__all__ = ["RestSession", "message_text", "quoted", "vapi_words"]


class RestSession:
    """What speaks to one vCenter's REST API. Whoever calls `login` calls `logout`."""

    def __init__(self, settings: VCenterSettings) -> None:
        self._settings = settings
        self._endpoint = Endpoint(settings)
        self._token = ""

    def login(self) -> None:
        """Open the session; raises `BadRequest` (login, certificate), `NotSupported` (no such API), `Unreachable`."""
        password = self._settings.password().get_secret_value()
        answer = rest.call(
            self._endpoint, "POST", "/api/session", headers=rest.basic_auth(self._settings.user, password)
        )
        if answer.status == 401:
            raise BadRequest(
                f"{self._endpoint.where} refused user {self._settings.user} with the password from "
                f"{self._settings.password_source}; correct 'user' or the password"
            )
        if answer.status == 404:
            raise NotSupported(
                f"{self._endpoint.where} has no REST API at /api: images and libraries need vCenter 7.0.2 or later"
            )
        if answer.status >= 400 or not isinstance(answer.body, str):
            raise rest.refusal(f"{self._endpoint.where}: log in at /api/session", answer, vapi_words(answer.body))
        self._token = answer.body

    def logout(self) -> None:
        """End the session; one that is gone already is no error."""
        if self._token:
            try:
                rest.call(self._endpoint, "DELETE", "/api/session", headers=self._headers)
            except GpuwrightError:
                # It idles out by itself; what was done counts.
                self._token = ""
        self._token = ""

    @property
    def _headers(self) -> dict[str, str]:
        return {"vmware-api-session-id": self._token}

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        answer = rest.call(self._endpoint, method, path, headers=self._headers, body=body)
        if answer.status == 401 and self._token:
            # Refused before anything was done, so sending it again is safe.
            self.login()
            answer = rest.call(self._endpoint, method, path, headers=self._headers, body=body)
        if answer.status < 400:
            return answer.body
        what, said = f"{self._endpoint.where}: {method} {path.partition('?')[0]}", vapi_words(answer.body)
        if isinstance(answer.body, dict) and answer.body.get("error_type") == "ALREADY_EXISTS":
            # Its status is that of any wrong request.
            raise Conflict(f"{what}: {said}")
        raise rest.refusal(what, answer, said)


def quoted(part: str) -> str:
    """One part of a path."""
    return quote(part, safe="")


def vapi_words(error: Any) -> str:
    """What a vAPI error says: its type and messages."""
    if not isinstance(error, dict):
        return ""
    said = [message_text(message) for message in error.get("messages") or ()]
    return ": ".join(filter(None, [str(error.get("error_type") or ""), "; ".join(filter(None, said))]))


def message_text(message: Any) -> str:
    """A `LocalizableMessage` as text."""
    if not isinstance(message, dict):
        return str(message)
    return str(message.get("localized") or message.get("default_message") or message.get("id") or "")
