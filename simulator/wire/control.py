"""The control API under `/simulator`: faults, sessions, outages and things that happen in the world."""

from __future__ import annotations

import base64
import binascii
import hmac
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pyVmomi import vmodl

from simulator.core import Managed

if TYPE_CHECKING:
    from simulator.service import Simulator

__all__ = ["Control"]


class _Refused(Exception):
    """A request that is wrong: answered 4xx with what, where and how to fix it."""

    def __init__(self, status: int, what: str) -> None:
        super().__init__(what)
        self.status = status


class Control:
    """JSON over HTTP basic authentication with the simulator's own user and password.

    | request | body | answer |
    |---|---|---|
    | `GET /simulator/faults` | | the rules in force |
    | `POST /simulator/faults` | a `FaultRule` without `id` | the rule |
    | `DELETE /simulator/faults[/{id}]` | | how many were removed |
    | `POST /simulator/sessions/kill` | `{"key": "…"}`, `{"user": "…"}`, or `{}` for all | how many ended |
    | `POST /simulator/users` | `{"user": "…", "password": "…"}` | the user, who can log in now |
    | `POST /simulator/outage` | `{"seconds": 3}`; see `Simulator.begin_outage` for what else | |
    | `GET /simulator/actions` | | the actions and their arguments |
    | `POST /simulator/actions/{name}` | the action's arguments | what it returns |
    """

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    def add_routes(self, app: web.Application) -> None:
        """Put the control API's paths into an application."""
        router = app.router
        router.add_get("/simulator/faults", self._serve(self.list_faults))
        router.add_post("/simulator/faults", self._serve(self.add_fault))
        router.add_delete("/simulator/faults", self._serve(self.remove_faults))
        router.add_delete("/simulator/faults/{id}", self._serve(self.remove_faults))
        router.add_post("/simulator/sessions/kill", self._serve(self.kill_sessions))
        router.add_post("/simulator/users", self._serve(self.add_user))
        router.add_post("/simulator/outage", self._serve(self.outage))
        router.add_get("/simulator/actions", self._serve(self.list_actions))
        router.add_post("/simulator/actions/{name}", self._serve(self.act))

    def list_faults(self, request: web.Request, body: dict[str, Any]) -> Any:
        return {"faults": [asdict(rule) for rule in self.simulator.faults.rules.values()]}

    def add_fault(self, request: web.Request, body: dict[str, Any]) -> Any:
        try:
            return asdict(self.simulator.faults.add(body))
        except ValueError as wrong:
            raise _Refused(422, str(wrong)) from wrong

    def remove_faults(self, request: web.Request, body: dict[str, Any]) -> Any:
        rules = self.simulator.faults.rules
        if (rule_id := request.match_info.get("id")) is None:
            removed = len(rules)
            rules.clear()
            return {"removed": removed}
        if not rule_id.isdigit() or int(rule_id) not in rules:
            raise _Refused(404, f"there is no fault rule {rule_id}: GET /simulator/faults lists them")
        del rules[int(rule_id)]
        return {"removed": 1}

    def kill_sessions(self, request: web.Request, body: dict[str, Any]) -> Any:
        if set(body) - {"key", "user"}:
            raise _Refused(422, "the body holds at most `key` and `user`; leave both out to kill all sessions")
        return {"killed": self.simulator.sessions.kill(body.get("key"), body.get("user"))}

    def add_user(self, request: web.Request, body: dict[str, Any]) -> Any:
        if set(body) != {"user", "password"} or not all(isinstance(value, str) for value in body.values()):
            raise _Refused(422, "the body holds `user` and `password`, both text")
        try:
            self.simulator.sessions.add_user(**body)
        except ValueError as wrong:
            raise _Refused(422, str(wrong)) from wrong
        return {"user": body["user"]}

    def outage(self, request: web.Request, body: dict[str, Any]) -> Any:
        seconds = body.get("seconds")
        if not isinstance(seconds, (int, float)) or not 0 < seconds <= 3600:
            raise _Refused(422, f"seconds: {seconds!r} is not a number of seconds up to 3600")
        lose = body.get("lose", 0)
        if type(lose) is not int or lose < 0:
            raise _Refused(422, f"lose: {lose!r} is no number of events")
        more = {name: value for name, value in body.items() if name not in ("seconds", "lose")}
        known = {"restart", "new_certificate", "renewed_certificate"}
        if set(more) - known or not all(isinstance(value, bool) for value in more.values()):
            raise _Refused(
                422,
                "besides `seconds` and `lose` the body holds at most `restart`, `new_certificate` and "
                "`renewed_certificate`, true or false",
            )
        self.simulator.begin_outage(seconds, lose=lose, **more)
        return {"seconds": seconds}

    def list_actions(self, request: web.Request, body: dict[str, Any]) -> Any:
        actions = self.simulator.world.actions
        return {"actions": {name: str(inspect.signature(action)) for name, action in sorted(actions.items())}}

    async def act(self, request: web.Request, body: dict[str, Any]) -> Any:
        name = request.match_info["name"]
        action = self.simulator.world.actions.get(name)
        if action is None:
            known = ", ".join(sorted(self.simulator.world.actions)) or "none"
            raise _Refused(404, f"there is no action {name}: known are {known}")
        signature = inspect.signature(action)
        try:
            signature.bind(**body)
        except TypeError as wrong:
            raise _Refused(422, f"{name}: {wrong}; it takes {signature}") from wrong
        try:
            result = action(**body)
            return {"result": _plain(await result if inspect.isawaitable(result) else result)}
        except vmodl.MethodFault as fault:
            raise _Refused(409, f"{name}: {fault.msg or type(fault).__name__}") from fault
        except (KeyError, ValueError) as wrong:
            raise _Refused(422, f"{name}: {wrong.args[0] if wrong.args else wrong}") from wrong

    def _serve(
        self, handler: Callable[[web.Request, dict[str, Any]], Any]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                self._authenticate(request)
                result = handler(request, await _body(request))
                return web.json_response(await result if inspect.isawaitable(result) else result)
            except _Refused as refused:
                headers = {"WWW-Authenticate": 'Basic realm="simulator"'} if refused.status == 401 else None
                return web.json_response({"error": str(refused)}, status=refused.status, headers=headers)

        return serve

    def _authenticate(self, request: web.Request) -> None:
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True) if scheme.casefold() == "basic" else b""
        except binascii.Error:
            given = b""
        sessions = self.simulator.sessions
        if not hmac.compare_digest(given, f"{sessions.user}:{sessions.password}".encode()):
            raise _Refused(401, "wrong user or password: send the simulator's own by HTTP basic authentication")


async def _body(request: web.Request) -> dict[str, Any]:
    if not await request.read():
        return {}
    try:
        body = await request.json()
    except ValueError as wrong:
        raise _Refused(400, f"the body is not JSON: {wrong}") from wrong
    if not isinstance(body, dict):
        raise _Refused(400, "the body is not a JSON object")
    return body


def _plain(value: Any) -> Any:
    """What an action returns, as JSON: managed objects by their moid."""
    if isinstance(value, Managed):
        return value.moid
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
