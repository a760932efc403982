"""Sessions: a bounded pool of logged-in connections to one vCenter, shared by activity threads."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import structlog
from pyVmomi import vim
from pyVmomi.VmomiSupport import versionIdMap

from contracts.errors import BadRequest, GpuwrightError, Unreachable
from vsphere.connection import Endpoint, GatewayStub, negotiate_version
from vsphere.faults import translated, words
from vsphere.settings import VCenterSettings

__all__ = ["SessionPool", "api_version", "content", "pool_named", "vcenter_name"]

_log = structlog.get_logger(__name__)

_TRUSTED_IDLE_S = 60
"""A session idle for longer is asked whether it is still logged in before it is lent out."""

_UNKNOWN_S = 180.0
"""Services look at their configuration every few seconds, but Kubernetes may take two minutes to give a changed
ConfigMap to all pods."""


def content(si: vim.ServiceInstance) -> Any:
    """The service content, read once a session: pyVmomi's `si.content` is a round trip each time."""
    stub = si._stub
    found = getattr(stub, "service_content", None)
    if found is None:
        found = stub.service_content = si.RetrieveContent()
    return found


def api_version(si: vim.ServiceInstance) -> str:
    """The negotiated API version, e.g. `8.0.2.0`: fields newer than it vanish silently on write."""
    return str(versionIdMap[si._stub.version])


def vcenter_name(si: vim.ServiceInstance) -> str:
    """The vCenter's configured name, for messages."""
    stub = si._stub
    return stub.endpoint.settings.name if isinstance(stub, GatewayStub) else str(stub.host)


class _Session:
    def __init__(self, settings: VCenterSettings, endpoint: Endpoint, version: str) -> None:
        self.settings = settings
        self.stub = GatewayStub(endpoint, version)
        self.si = vim.ServiceInstance("ServiceInstance", self.stub)
        self.users = 0
        self._login_lock = threading.Lock()
        try:
            with translated(f"connect to {endpoint.where}"):
                content(self.si)
            self.login("")
        except BaseException:
            self.stub.close()
            raise
        self.stub.relogin = self.login

    def login(self, refused_cookie: str) -> None:
        """Log in, unless another thread has done so since `refused_cookie` was refused."""
        settings = self.settings
        with self._login_lock:
            if refused_cookie and self.stub.cookie != refused_cookie:
                return
            with translated(f"log in to {self.stub.endpoint.where} as {settings.user}"):
                try:
                    content(self.si).sessionManager.Login(settings.user, settings.password().get_secret_value(), None)
                except vim.fault.InvalidLogin as fault:
                    raise BadRequest(
                        f"{self.stub.endpoint.where} refused user {settings.user} with the password from "
                        f"{settings.password_source} ({words(fault)}); correct 'user' or the password"
                    ) from fault

    def check(self) -> None:
        """Make sure that the session is logged in; this also keeps it from idling out."""
        cookie = self.stub.cookie
        with translated(f"check the session on {self.stub.endpoint.where}"):
            if content(self.si).sessionManager.currentSession is None:
                self.login(cookie)

    @property
    def idle_s(self) -> float:
        return time.monotonic() - self.stub.last_used

    def logout(self) -> None:
        # Calls under way are refused from here on, instead of logging in once more.
        self.stub.relogin = None
        try:
            with translated(f"log out of {self.stub.endpoint.where}"):
                content(self.si).sessionManager.Logout()
        except GpuwrightError as error:
            _log.info("logout_failed", vcenter=self.settings.name, error=str(error))
        finally:
            self.stub.close()


class SessionPool:
    """At most `max_sessions` sessions of one vCenter, opened when needed and kept alive.

    Sessions are shared: when all are in use, the least used one is lent out again. Whoever makes collectors or
    filters in a session destroys them. Call `close` at the end; it logs out.
    """

    def __init__(self, settings: VCenterSettings) -> None:
        self.settings = settings
        self._endpoint = Endpoint(settings)
        self._sessions: list[_Session] = []
        self._opening = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._keeper: threading.Thread | None = None

    @property
    def name(self) -> str:
        """The vCenter's configured name."""
        return self.settings.name

    @contextmanager
    def session(self) -> Iterator[vim.ServiceInstance]:
        """Lend out a logged-in `ServiceInstance`; raises `BadRequest` (login, certificate) or `Unreachable`."""
        session = self._take()
        try:
            if session.idle_s > _TRUSTED_IDLE_S:
                session.check()
            yield session.si
        finally:
            with self._changed:
                session.users -= 1
                self._changed.notify()

    @property
    def api_version(self) -> str:
        """The negotiated API version, e.g. `8.0.2.0`; connects if no session was opened yet."""
        with self.session() as si:
            return api_version(si)

    def close(self) -> None:
        """Log out of every session; the pool cannot be used afterwards."""
        self._closed.set()
        with self._changed:
            sessions, self._sessions = self._sessions, []
            self._changed.notify_all()
        if self._keeper is not None:
            self._keeper.join()
        for session in sessions:
            session.logout()

    def __enter__(self) -> "SessionPool":
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def _take(self) -> _Session:
        with self._changed:
            while True:
                if self._closed.is_set():
                    raise self._gone()
                least = min(self._sessions, key=lambda session: session.users, default=None)
                room = len(self._sessions) + self._opening < self.settings.max_sessions
                if least is not None and (least.users == 0 or not room):
                    least.users += 1
                    return least
                if room:
                    self._opening += 1
                    break
                self._changed.wait(timeout=1)
        session = None
        try:
            session = self._open()
            session.users = 1
        finally:
            with self._changed:
                self._opening -= 1
                if session is not None and not self._closed.is_set():
                    self._sessions.append(session)
                self._changed.notify_all()
        if self._closed.is_set():
            session.logout()
            raise self._gone()
        return session

    def _gone(self) -> Unreachable:
        return Unreachable(
            f"vCenter {self.name}: its sessions were closed: it was removed from the configuration, its settings "
            "changed or the service stops; where it is still configured, trying again uses the new ones"
        )

    def _open(self) -> _Session:
        # Asked anew for each session: a vCenter may have been upgraded in between.
        session = _Session(self.settings, self._endpoint, negotiate_version(self._endpoint))
        with self._changed:
            if self._keeper is None:
                self._keeper = threading.Thread(target=self._keep_alive, name=f"keep-alive-{self.name}", daemon=True)
                self._keeper.start()
        return session

    def _keep_alive(self) -> None:
        while not self._closed.wait(self.settings.keep_alive_s / 2):
            with self._changed:
                idle = [session for session in self._sessions if session.idle_s >= self.settings.keep_alive_s / 2]
            for session in idle:
                try:
                    session.check()
                except GpuwrightError as error:
                    # The next borrower meets the same error and raises it to whoever asked.
                    _log.warning("keep_alive_failed", vcenter=self.name, error=str(error))


def pool_named(pools: Mapping[str, SessionPool], vcenter: str) -> SessionPool:
    """The sessions of a vCenter; raises `BadRequest` for one that is not configured here.

    That is worth another try for a while: another worker may know it, or this one read a configuration that is about
    to change.
    """
    pool = pools.get(vcenter)
    if pool is None:
        raise BadRequest(
            f"there is no vCenter {vcenter!r} in this worker's configuration; it has: "
            f"{', '.join(sorted(pools)) or 'none'}. Add it there, or end the run that asks for it",
            retry_for_s=_UNKNOWN_S,
        )
    return pool
