"""vCenter's REST API below `/api`: sessions, tasks, and the errors that all of it shares."""

from __future__ import annotations

import base64
import binascii
import inspect
import uuid
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import TYPE_CHECKING, Any

from aiohttp import web
from pyVmomi import vim, vmodl

from simulator.laws.lifecycle import Refused
from simulator.wire.session import Session

if TYPE_CHECKING:
    from simulator.service import Simulator

__all__ = ["SESSION", "RestApi", "RestTasks", "localized", "stamp"]

SESSION = web.RequestKey("session", Session)
"""Whose request it is."""

_STATUS = {"UNAUTHENTICATED": 401, "NOT_FOUND": 404, "INTERNAL_SERVER_ERROR": 500}
_HEADER = "vmware-api-session-id"


def localized(message: str, key: str = "com.vmware.vapi.simulator") -> dict[str, Any]:
    """A `LocalizableMessage`."""
    return {"id": key, "default_message": message, "args": []}


def stamp(moment: datetime) -> str:
    """A point in time as vAPI writes it."""
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def error_body(refused: Refused) -> dict[str, Any]:
    return {"error_type": refused.error_type, "messages": [localized(str(refused))]}


class RestTasks:
    """Work that goes on behind a task id: `/api/cis/tasks/{task}`."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.tasks: dict[str, dict[str, Any]] = {}

    def start(self, service: str, operation: str, work: Coroutine[Any, Any, Any], user: str, **target: str) -> str:
        """Run `work`; its result is the task's, a `Refused` its error. Returns the task's id."""
        task_id = f"{uuid.uuid4()}:{service}"
        now = stamp(self.simulator.registry.clock.now())
        info: dict[str, Any] = {
            "description": localized(f"Task created by the simulator for {operation}"),
            "service": service,
            "operation": operation,
            "status": "RUNNING",
            "cancelable": False,
            "start_time": now,
            "user": user,
            "progress": {"total": 100, "completed": 0, "message": localized("Current progress for task")},
        }
        if target:
            info["target"] = target
        self.tasks[task_id] = info
        self.simulator.spawn(self._run(info, work))
        return task_id

    async def _run(self, info: dict[str, Any], work: Coroutine[Any, Any, Any]) -> None:
        status = "FAILED"
        try:
            result = await work
            if result is not None:
                info["result"] = result
            failed = isinstance(result, dict) and bool(result.get("failed_hosts"))
            status = "FAILED" if failed else "SUCCEEDED"
            if failed:
                info["error"] = {"error_type": "ERROR", "messages": [localized("Not all hosts could be remediated.")]}
        except Refused as refused:
            info["error"] = error_body(refused)
        except vmodl.MethodFault as fault:
            info["error"] = error_body(Refused("ERROR", fault.msg or type(fault).__name__))
        finally:
            work.close()
            info["status"] = status
            info["progress"]["completed"] = 100
            info["end_time"] = stamp(self.simulator.registry.clock.now())


class RestApi:
    """Sessions (`POST /api/session` with basic authentication), tasks, hosts and clusters."""

    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator
        self.world: Any = simulator.world
        self.tasks = RestTasks(simulator)

    async def close(self) -> None:
        """Nothing goes on here besides the simulator's own work."""

    def add_routes(self, app: web.Application) -> None:
        """Put the API's paths into an application."""
        app.router.add_post("/api/session", self.answer(self.log_in, anonymous=True))
        self.get(app, "/api/session", self.session)
        app.router.add_delete("/api/session", self.answer(self.log_out))
        self.get(app, "/api/cis/tasks", self.list_tasks)
        self.get(app, "/api/cis/tasks/{task}", self.task)
        self.get(app, "/api/vcenter/host", self.hosts)
        self.get(app, "/api/vcenter/cluster", self.clusters)

    def get(self, app: web.Application, path: str, handler: Callable[[web.Request], Any]) -> None:
        """A path that is read."""
        app.router.add_get(path, self.answer(handler))

    def answer(
        self, handler: Callable[[web.Request], Any], *, anonymous: bool = False
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """Serve what `handler` returns as JSON, nothing as 204, and what it refuses as vAPI's error."""

        async def serve(request: web.Request) -> web.StreamResponse:
            try:
                if not anonymous:
                    request[SESSION] = self._session(request)
                result = handler(request)
                result = await result if inspect.isawaitable(result) else result
            except Refused as refused:
                return web.json_response(error_body(refused), status=_STATUS.get(refused.error_type, 400))
            if isinstance(result, web.Response):
                return result
            return web.Response(status=204) if result is None else web.json_response(result)

        return serve

    def _session(self, request: web.Request) -> Session:
        session = self.simulator.sessions.get(request.headers.get(_HEADER, ""))
        if session is None:
            raise Refused("UNAUTHENTICATED", "Authentication required.")
        session.last_active = self.simulator.registry.clock.now()
        return session

    def log_in(self, request: web.Request) -> web.Response:
        scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            user = password = ""
        session = Session(self.simulator.registry, request.remote or "", request.headers.get("User-Agent", ""))
        try:
            if scheme.casefold() != "basic":
                raise vim.fault.InvalidLogin
            self.simulator.sessions.login(session, user, password)
        except vim.fault.InvalidLogin as wrong:
            raise Refused("UNAUTHENTICATED", "Wrong user or password.") from wrong
        return web.json_response(session.key, status=201, headers={_HEADER: session.key})

    def session(self, request: web.Request) -> Any:
        session: Session = request[SESSION]
        return {
            "user": session.user,
            "created_time": stamp(session.login_time),
            "last_accessed_time": stamp(session.last_active),
        }

    def log_out(self, request: web.Request) -> None:
        self.simulator.sessions.end(request[SESSION])

    def list_tasks(self, request: web.Request) -> Any:
        """All tasks, or those that all given filters (`tasks`, `services`, `status`) let through."""
        query, found = request.query, self.tasks.tasks.items()
        return {
            key: info
            for key, info in found
            if key in query.getall("tasks", [key])
            and info["service"] in query.getall("services", [info["service"]])
            and info["status"] in query.getall("status", [info["status"]])
        }

    def task(self, request: web.Request) -> Any:
        info = self.tasks.tasks.get(request.match_info["task"])
        if info is None:
            raise Refused("NOT_FOUND", f"There is no task {request.match_info['task']}.")
        return info

    def hosts(self, request: web.Request) -> Any:
        states = {"connected": "CONNECTED", "disconnected": "DISCONNECTED", "notResponding": "NOT_RESPONDING"}
        powers = {"poweredOn": "POWERED_ON", "poweredOff": "POWERED_OFF", "standBy": "STANDBY"}
        clusters = request.query.getall("clusters", [])
        return [
            {"host": host.moid, "name": host.name, "connection_state": states[host.connection_state]}
            | ({"power_state": powers[host.power_state]} if host.connection_state == "connected" else {})
            for host in self._named(request, "host", self.world.hosts.values())
            if not clusters or host.compute.moid in clusters
        ]

    def clusters(self, request: web.Request) -> Any:
        return [
            {
                "cluster": cluster.moid,
                "name": cluster.name,
                "ha_enabled": cluster.ha_enabled,
                "drs_enabled": cluster.drs_enabled,
            }
            for cluster in self._named(request, "cluster", self.world.clusters.values())
            if not cluster.standalone
        ]

    def _named(self, request: web.Request, kind: str, states: Any) -> list[Any]:
        names, moids = request.query.getall("names", []), request.query.getall(f"{kind}s", [])
        return [state for state in states if (not names or state.name in names) and (not moids or state.moid in moids)]
