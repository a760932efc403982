"""HTTP: `/sdk` for SOAP, and the version list that pyVmomi asks for first."""

from __future__ import annotations

import re

from aiohttp import web
from pyVmomi import vmodl

from simulator.core import Registry
from simulator.wire.dispatch import Dispatcher, DropConnection, Reply, soap_fault
from simulator.wire.session import Session, Sessions
from simulator.wire.soap_read import parse_request
from simulator.wire.versions import negotiated, service_versions_xml

__all__ = ["SoapEndpoint"]

_COOKIE = re.compile(r'vmware_soap_session="?([^";]+)')
_XML = "text/xml"


class SoapEndpoint:
    """Serves SOAP calls over HTTP."""

    def __init__(self, registry: Registry, sessions: Sessions, dispatcher: Dispatcher, version: str) -> None:
        self.registry = registry
        self.sessions = sessions
        self.dispatcher = dispatcher
        self.version = version

    def add_routes(self, app: web.Application) -> None:
        """Put the endpoint's paths into an application."""
        app.router.add_post("/sdk", self.soap)
        app.router.add_post("/sdk/", self.soap)
        app.router.add_post("/sdk/vimService", self.soap)
        app.router.add_get("/sdk/vimServiceVersions.xml", self.versions)

    async def versions(self, request: web.Request) -> web.Response:
        return web.Response(text=service_versions_xml(self.version), content_type=_XML, charset="utf-8")

    async def soap(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        session = self._session(request)
        version = negotiated(request.headers.get("SOAPAction", ""), self.version)
        logged_in = session.authenticated
        session.last_active = self.registry.clock.now()
        session.calls += 1
        session.calls_running += 1
        try:
            reply = await self._reply(body, session, version)
        except DropConnection:
            return drop_connection(request)
        finally:
            session.calls_running -= 1
            session.last_active = self.registry.clock.now()
        response = web.Response(status=reply.status, body=reply.envelope, content_type=_XML, charset="utf-8")
        if session.authenticated and not logged_in:
            response.headers["Set-Cookie"] = f'vmware_soap_session="{session.key}"; Path=/; HttpOnly; Secure'
        return response

    async def _reply(self, body: bytes, session: Session, version: str) -> Reply:
        try:
            call = parse_request(body)
        except vmodl.fault.InvalidRequest as fault:
            return soap_fault(fault, version)
        return await self.dispatcher.run(call, session, version)

    def _session(self, request: web.Request) -> Session:
        # Not aiohttp's cookie parser: pyVmomi sends the cookie's attributes back too.
        cookie = _COOKIE.search(request.headers.get("Cookie", ""))
        if cookie and (session := self.sessions.get(cookie[1])):
            return session
        return Session(self.registry, request.remote or "", request.headers.get("User-Agent", ""))


def drop_connection(request: web.Request) -> web.StreamResponse:
    """Close the TCP connection at once; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
