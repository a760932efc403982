"""Sessions: who is logged in, what each has made (views, collectors, filters), and when it idles out."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from pyVmomi import vim

from simulator.core import Managed, Registry

__all__ = ["Session", "Sessions"]


class Session:
    """One client's session. Before `Login` it is anonymous: `user` is empty and nothing keeps it."""

    def __init__(self, registry: Registry, ip_address: str, user_agent: str) -> None:
        self.registry = registry
        self.key = str(uuid.uuid4())
        self.user = ""
        self.ip_address = ip_address
        self.user_agent = user_agent
        self.login_time: datetime = registry.clock.now()
        self.last_active: datetime = self.login_time
        self.calls = 0
        self.calls_running = 0
        self.objects: dict[str, Managed] = {}

    @property
    def authenticated(self) -> bool:
        return bool(self.user)

    def new_moid(self) -> str:
        """A moid for an object that lives and dies with this session."""
        return f"session[{self.key}]{uuid.uuid4()}"

    def add(self, obj: Managed) -> Managed:
        """Make an object reachable within this session only."""
        self.objects[obj.moid] = obj
        obj.touch()
        return obj

    def drop(self, obj: Managed) -> None:
        """Destroy an object of this session."""
        if self.objects.pop(obj.moid, None) is not None:
            obj.touch()
            if (closed := getattr(obj, "closed", None)) is not None:
                closed()

    def find(self, moid: str) -> Managed | None:
        """An object that this session can reach."""
        return self.objects.get(moid) or self.registry.objects.get(moid)

    def of_type(self, kind: type[Managed]) -> Iterator[Managed]:
        """This session's own objects of a kind."""
        return (obj for obj in self.objects.values() if isinstance(obj, kind))

    def shown(self) -> Any:
        """As clients see it."""
        return vim.UserSession(
            key=self.key,
            userName=self.user,
            fullName=self.user.partition("@")[0],
            loginTime=self.login_time,
            lastActiveTime=self.last_active,
            locale="en",
            messageLocale="en",
            extensionSession=False,
            ipAddress=self.ip_address,
            userAgent=self.user_agent,
            callCount=self.calls,
        )


class Sessions:
    """The sessions that are logged in; they end `idle_s` real seconds after their last call."""

    def __init__(self, registry: Registry, user: str, password: str, idle_s: float) -> None:
        self.registry = registry
        self.user = user
        self.password = password
        self.idle_s = idle_s
        self._passwords = {user.casefold(): password}
        self._by_key: dict[str, Session] = {}
        registry.events.on_restore.append(self.forget_all)

    def add_user(self, user: str, password: str) -> None:
        """Let somebody else log in, too; raises `ValueError` for a name that is taken, or without a password."""
        if not user or user.casefold() in self._passwords:
            raise ValueError(f"user: {user!r} is taken, or no name")
        if not password:
            raise ValueError("password: it is empty")
        self._passwords[user.casefold()] = password

    def __iter__(self) -> Iterator[Session]:
        self.expire()
        return iter(tuple(self._by_key.values()))

    def get(self, key: str) -> Session | None:
        """The live session of this key."""
        self.expire()
        return self._by_key.get(key)

    def login(self, session: Session, user: str, password: str) -> None:
        """Make an anonymous session one of `user`; raises `InvalidLogin` or `InvalidState` when it is logged in."""
        if session.authenticated:
            raise vim.fault.InvalidState(msg="The session is already logged in.")
        if self._passwords.get(user.casefold()) != password:
            raise vim.fault.InvalidLogin(msg="Cannot complete login due to an incorrect user name or password.")
        session.user = self.user if user.casefold() == self.user.casefold() else user
        session.login_time = self.registry.clock.now()
        self._by_key[session.key] = session
        self.registry.events.post(
            vim.event.UserLoginSessionEvent(
                userName=session.user,
                ipAddress=session.ip_address,
                userAgent=session.user_agent,
                locale="en",
                sessionId=session.key,
            )
        )

    def end(self, session: Session) -> None:
        """Log a session out, destroying all that it made."""
        if self._by_key.pop(session.key, None) is None:
            return
        self._close(session)
        self.registry.events.post(
            vim.event.UserLogoutSessionEvent(
                userName=session.user,
                ipAddress=session.ip_address,
                userAgent=session.user_agent,
                callCount=session.calls,
                sessionId=session.key,
                loginTime=session.login_time,
            )
        )
        session.user = ""

    @staticmethod
    def _close(session: Session) -> None:
        for obj in tuple(session.objects.values()):
            session.drop(obj)

    def forget_all(self) -> None:
        """The vCenter that knew them is no more: they end without a word."""
        for session in self._by_key.values():
            self._close(session)
            session.user = ""
        self._by_key.clear()

    def kill(self, key: str | None = None, user: str | None = None) -> int:
        """End the session of this key, those of this user, or all of them; returns how many ended."""
        doomed = [
            session
            for session in self
            if key in (None, session.key) and (user is None or user.casefold() == session.user.casefold())
        ]
        for session in doomed:
            self.end(session)
        return len(doomed)

    def expire(self) -> None:
        """End the sessions that have idled out. A call that is still waiting keeps its session alive."""
        now = self.registry.clock.now()
        for session in tuple(self._by_key.values()):
            if not session.calls_running and (now - session.last_active).total_seconds() > self.idle_s:
                self.end(session)
