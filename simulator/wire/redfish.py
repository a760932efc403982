"""The hosts' BMCs: Redfish below `/redfish/v1`, one system for each host, told by its hardware UUID.

Paths and shapes are those of DMTF's Redfish. The user and the password are the simulator's.
"""

from __future__ import annotations

import base64
import binascii
import inspect
import secrets
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from aiohttp import web

from simulator.laws import bios, hosts
from simulator.world import Host, World

if TYPE_CHECKING:
    from simulator.service import Simulator

__all__ = ["Redfish"]

_ROOT = "/redfish/v1"
_SYSTEMS = _ROOT + "/Systems"
_SYSTEM = _SYSTEMS + "/{system}"
_SESSIONS = _ROOT + "/SessionService/Sessions"


class _Refused(Exception):
    """A request that is wrong: its status, Redfish's message id, and the words."""

    def __init__(self, status: int, message_id: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.message_id = message_id


class Redfish:
    """All BMCs behind one address."""

    def __init__(self, simulator: Simulator) -> None:
        if not isinstance(simulator.world, World):
            raise TypeError("BMCs need hosts")
        self.simulator = simulator
        self.world = simulator.world
        self.tokens: dict[str, str] = {}
        """Session tokens by session id."""

    async def close(self) -> None:
        """Nothing goes on here besides the world's own work."""

    def add_routes(self, app: web.Application) -> None:
        """Put the BMCs' paths into an application."""
        router, serve = app.router, self._serve
        router.add_get("/redfish", serve(lambda request: {"v1": "/redfish/v1/"}, anonymous=True))
        for path in (_ROOT, _ROOT + "/"):
            router.add_get(path, serve(self.root, anonymous=True))
        router.add_get(_ROOT + "/SessionService", serve(self.session_service))
        router.add_get(_SESSIONS, serve(self.sessions))
        router.add_post(_SESSIONS, serve(self.log_in, anonymous=True))
        router.add_delete(_SESSIONS + "/{id}", serve(self.log_out))
        router.add_get(_SYSTEMS, serve(self.systems))
        router.add_get(_SYSTEM, serve(self.system))
        router.add_post(_SYSTEM + "/Actions/ComputerSystem.Reset", serve(self.reset))
        router.add_get(_SYSTEM + "/Bios", serve(self.bios))
        router.add_get(_SYSTEM + "/Bios/Settings", serve(self.settings))
        router.add_patch(_SYSTEM + "/Bios/Settings", serve(self.change_settings))

    def _serve(
        self, handler: Callable[[web.Request], Any], *, anonymous: bool = False
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                if not anonymous:
                    self._authenticate(request)
                result = handler(request)
                result = await result if inspect.isawaitable(result) else result
            except _Refused as refused:
                return _error(refused)
            if isinstance(result, web.Response):
                return result
            if result is None:
                return web.Response(status=204)
            return web.json_response(result, headers={"OData-Version": "4.0"})

        return serve

    def _authenticate(self, request: web.Request) -> None:
        token = request.headers.get("X-Auth-Token")
        if token is not None and any(secrets.compare_digest(token, known) for known in self.tokens.values()):
            return
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True) if scheme.casefold() == "basic" else b""
        except binascii.Error:
            given = b""
        options = self.simulator.options
        if not secrets.compare_digest(given, f"{options.user}:{options.password}".encode()):
            raise _Refused(401, "NoValidSession", "There is no valid session established with the implementation.")

    def root(self, request: web.Request) -> Any:
        return {
            "@odata.type": "#ServiceRoot.v1_5_0.ServiceRoot",
            "@odata.id": _ROOT + "/",
            "Id": "RootService",
            "Name": "Root Service",
            "RedfishVersion": "1.6.0",
            "Systems": {"@odata.id": _SYSTEMS},
            "SessionService": {"@odata.id": _ROOT + "/SessionService"},
            "Links": {"Sessions": {"@odata.id": _SESSIONS}},
        }

    # sessions

    def session_service(self, request: web.Request) -> Any:
        return {
            "@odata.type": "#SessionService.v1_1_6.SessionService",
            "@odata.id": _ROOT + "/SessionService",
            "Id": "SessionService",
            "Name": "Session Service",
            "ServiceEnabled": True,
            "SessionTimeout": 1800,
            "Sessions": {"@odata.id": _SESSIONS},
        }

    def sessions(self, request: web.Request) -> Any:
        return _collection("#SessionCollection.SessionCollection", _SESSIONS, "Session Collection", list(self.tokens))

    async def log_in(self, request: web.Request) -> web.Response:
        body = await _body(request)
        options = self.simulator.options
        if (body.get("UserName"), body.get("Password")) != (options.user, options.password):
            raise _Refused(401, "InsufficientPrivilege", "Wrong user or password.")
        key, token = secrets.token_hex(4), secrets.token_hex(16)
        self.tokens[key] = token
        shown = {
            "@odata.type": "#Session.v1_2_1.Session",
            "@odata.id": f"{_SESSIONS}/{key}",
            "Id": key,
            "Name": "User Session",
            "UserName": options.user,
        }
        headers = {"X-Auth-Token": token, "Location": f"{_SESSIONS}/{key}"}
        return web.json_response(shown, status=201, headers=headers)

    def log_out(self, request: web.Request) -> None:
        if self.tokens.pop(request.match_info["id"], None) is None:
            raise _Refused(404, "ResourceMissingAtURI", f"There is no session {request.match_info['id']}.")

    # systems

    def _host(self, request: web.Request) -> Host:
        wanted = request.match_info["system"]
        for host in self.world.hosts.values():
            if wanted.casefold() == host.uuid.casefold():
                return host
        raise _Refused(404, "ResourceMissingAtURI", f"There is no system {wanted}.")

    def systems(self, request: web.Request) -> Any:
        members = [host.uuid for host in self.world.hosts.values()]
        return _collection("#ComputerSystemCollection.ComputerSystemCollection", _SYSTEMS, "Computer Systems", members)

    def system(self, request: web.Request) -> Any:
        host = self._host(request)
        path = f"{_SYSTEMS}/{host.uuid}"
        return {
            "@odata.type": "#ComputerSystem.v1_13_0.ComputerSystem",
            "@odata.id": path,
            "Id": host.uuid,
            "Name": host.name,
            "HostName": host.name,
            "UUID": host.uuid,
            "SerialNumber": host.uuid[:7].upper(),
            "Manufacturer": host.vendor,
            "Model": host.model,
            "SystemType": "Physical",
            "PowerState": "On" if host.power_state == "poweredOn" else "Off",
            "Status": {"State": "Enabled", "Health": "OK"},
            "ProcessorSummary": {"Count": host.cpu_packages, "Model": host.cpu_model},
            "MemorySummary": {"TotalSystemMemoryGiB": host.memory_bytes // 2**30},
            "Bios": {"@odata.id": f"{path}/Bios"},
            "Actions": {
                "#ComputerSystem.Reset": {
                    "target": f"{path}/Actions/ComputerSystem.Reset",
                    "ResetType@Redfish.AllowableValues": list(hosts.RESET_TYPES),
                }
            },
        }

    async def reset(self, request: web.Request) -> None:
        host, wanted = self._host(request), (await _body(request)).get("ResetType")
        if wanted not in hosts.RESET_TYPES:
            known = ", ".join(hosts.RESET_TYPES)
            raise _Refused(400, "ActionParameterNotSupported", f"ResetType is {wanted!r}; it must be one of {known}.")
        hosts.reset(self.world, host, wanted)

    # BIOS

    def bios(self, request: web.Request) -> Any:
        host = self._host(request)
        path = f"{_SYSTEMS}/{host.uuid}/Bios"
        return {
            "@odata.type": "#Bios.v1_1_0.Bios",
            "@odata.id": path,
            "Id": "Bios",
            "Name": "BIOS Configuration Current Settings",
            "Attributes": bios.attributes(host),
            "@Redfish.Settings": {
                "@odata.type": "#Settings.v1_3_0.Settings",
                "SettingsObject": {"@odata.id": f"{path}/Settings"},
                "SupportedApplyTimes": ["OnReset"],
            },
        }

    def settings(self, request: web.Request) -> Any:
        host = self._host(request)
        return {
            "@odata.type": "#Bios.v1_1_0.Bios",
            "@odata.id": f"{_SYSTEMS}/{host.uuid}/Bios/Settings",
            "Id": "Settings",
            "Name": "BIOS Configuration Pending Settings",
            "Attributes": host.bios_pending,
        }

    async def change_settings(self, request: web.Request) -> Any:
        host, wanted = self._host(request), (await _body(request)).get("Attributes")
        if not isinstance(wanted, dict) or not wanted:
            raise _Refused(400, "PropertyMissing", "Attributes: the settings to change are missing.")
        try:
            bios.set_pending(host, wanted)
        except ValueError as wrong:
            raise _Refused(400, "PropertyValueNotInList", str(wrong)) from wrong
        return self.settings(request)


def _collection(kind: str, path: str, name: str, members: list[str]) -> dict[str, Any]:
    return {
        "@odata.type": kind,
        "@odata.id": path,
        "Name": name,
        "Members@odata.count": len(members),
        "Members": [{"@odata.id": f"{path}/{member}"} for member in members],
    }


def _error(refused: _Refused) -> web.Response:
    message_id = f"Base.1.8.{refused.message_id}"
    body = {
        "error": {
            "code": message_id,
            "message": str(refused),
            "@Message.ExtendedInfo": [{"MessageId": message_id, "Message": str(refused), "Severity": "Critical"}],
        }
    }
    headers = {"WWW-Authenticate": 'Basic realm="BMC"'} if refused.status == 401 else None
    return web.json_response(body, status=refused.status, headers=headers)


async def _body(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError as wrong:
        raise _Refused(400, "MalformedJSON", f"The body is not JSON: {wrong}") from wrong
    if not isinstance(body, dict):
        raise _Refused(400, "MalformedJSON", "The body is not a JSON object.")
    return body
