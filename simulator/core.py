"""What every managed object of the simulated vCenter is: an identity, property readers and methods.

The world (`world.py`) holds plain state, the laws (`laws/`) change it, `entities/` render it as vSphere
properties and methods, and `wire/` speaks SOAP. This module is the seam between them: the wire knows only
`Registry` and `Managed`; entities know nothing of SOAP.

Everything runs on one asyncio event loop, so there are no locks: a method or law that does not `await`
is atomic.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from pyVmomi import vim

from simulator.clock import Clock
from simulator.paths import InvalidPath, parse_path, walk

if TYPE_CHECKING:
    from simulator.eventlog import EventLog
    from simulator.tasks import TaskManager

__all__ = ["CURRENT_CALL", "Call", "Managed", "Registry", "SessionView", "method", "prop"]


_JOURNAL = 100_000
"""How many changes the registry remembers for those who wait for updates."""


class SessionView(Protocol):
    """What a method may know of the session that calls it."""

    key: str
    user: str


@dataclass(frozen=True, slots=True)
class Call:
    """Who calls a method, and on which API version (`8.0.2.0`)."""

    session: SessionView
    api_version: str
    method: str = ""


CURRENT_CALL: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call being served: tasks and events take their user and method from it. `None` for the world's own doings."""


def method(wsdl_name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Mark a `Managed` method as the implementation of a vSphere operation, e.g. `RebootHost_Task`.

    It is called as `fn(self, call, **arguments)`; the arguments have VMODL names (`spec`, `timeout`), absent
    optional ones are `None`. It may be async. It returns a pyVmomi value, a `Managed` (sent as a reference)
    or a list of these, and raises a pyVmomi fault to fail.
    """

    def mark(fn: Callable[..., Any]) -> Callable[..., Any]:
        fn.__wsdl_name__ = wsdl_name  # type: ignore[attr-defined]
        return fn

    return mark


def prop(path: str) -> Callable[[Callable[[Any], Any]], Callable[[Any], Any]]:
    """Mark a `Managed` method as the reader of a property path, e.g. `config.pciPassthruInfo` or `runtime`.

    A read of a path takes the longest matching reader and walks the rest of the path through the data object
    it returns. Offer readers for deep paths that clients ask for often (`config.graphicsInfo`), so that a
    fleet read does not build every host's whole `config`.
    """

    def mark(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
        fn.__property_path__ = path  # type: ignore[attr-defined]
        return fn

    return mark


class Managed:
    """One managed object.

    Subclasses set `vim_type` and mark methods with `@prop` and `@method`. `revision` rises with every visible
    change (`registry.touch(obj)`): the property collector compares it to know what to look at again.
    """

    vim_type: ClassVar[Any] = vim.ManagedEntity
    readers: ClassVar[dict[str, Callable[[Any], Any]]] = {}
    methods: ClassVar[dict[str, Callable[..., Any]]] = {}

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.readers, cls.methods = dict(cls.readers), dict(cls.methods)
        for fn in vars(cls).values():
            if path := getattr(fn, "__property_path__", None):
                cls.readers[path] = fn
            if name := getattr(fn, "__wsdl_name__", None):
                cls.methods[name] = fn

    def __init__(self, registry: Registry, moid: str) -> None:
        self.registry = registry
        self.moid = moid
        self.revision = 0

    def ref(self) -> Any:
        """The pyVmomi reference to this object, as it appears inside property values."""
        return self.vim_type(self.moid)

    def touch(self) -> None:
        """Say that a visible property changed."""
        self.registry.touch(self)

    def read(self, path: str) -> Any:
        """The value at a property path, through the longest matching reader; `None` when it is unset.

        Raises `simulator.paths.InvalidPath` for a path that the object's type does not have.
        """
        if reader := self.readers.get(path):
            return reader(self)
        steps = parse_path(path)
        head = 1
        while head < len(steps) and not steps[head].is_key:
            head += 1
        for depth in range(head, 0, -1):
            if reader := self.readers.get(".".join(step.name for step in steps[:depth])):
                return walk(reader(self), steps[depth:])
        if not has_property(self.vim_type, steps[0].name):
            raise InvalidPath(path)
        return None

    async def invoke(self, wsdl_name: str, call: Call, arguments: dict[str, Any]) -> Any:
        """Run an operation; raises `KeyError` when this object has no such operation."""
        result = self.methods[wsdl_name](self, call, **arguments)
        return await result if inspect.isawaitable(result) else result


def has_property(vim_type: Any, name: str) -> bool:
    """Whether a pyVmomi type has a property of this name."""
    try:
        vim_type._GetPropertyInfo(name)
    except AttributeError:
        return False
    return True


class Registry:
    """All managed objects by moid, the news of their changes, and the services every law uses.

    `clock` sleeps scaled time, `events` is the event log, `tasks` runs the laws that clients see as tasks.
    """

    clock: Clock
    events: EventLog
    tasks: TaskManager

    def __init__(self, time_scale: float = 1.0) -> None:
        # These two build on `Managed`, hence the late import.
        from simulator.eventlog import EventLog
        from simulator.tasks import TaskManager

        self.clock = Clock(time_scale)
        self.events = EventLog(self)
        self.tasks = TaskManager(self)
        self.objects: dict[str, Managed] = {}
        self.settings: dict[str, object] = {}
        """vCenter's advanced settings."""
        self.revision = 0
        self._journal: deque[tuple[int, str]] = deque(maxlen=_JOURNAL)
        self._news = asyncio.Event()

    def add(self, obj: Managed) -> None:
        """Make an object reachable; raises `ValueError` on a moid in use."""
        if obj.moid in self.objects:
            raise ValueError(f"moid {obj.moid} is taken")
        self.objects[obj.moid] = obj
        self.touch(obj)

    def remove(self, obj: Managed) -> None:
        """Make an object unreachable; later calls on it fail with `ManagedObjectNotFound`."""
        del self.objects[obj.moid]
        self._bump(obj.moid)

    def touch(self, obj: Managed) -> None:
        """Record a visible change of `obj` and wake those who wait for updates."""
        obj.revision = self._bump(obj.moid)

    def changed_since(self, revision: int) -> set[str] | None:
        """Moids of what was added, removed or changed after `revision`; `None` when that is too long ago to know."""
        if self._journal and self._journal[0][0] > revision + 1:
            return None
        found: set[str] = set()
        for changed_at, moid in reversed(self._journal):
            if changed_at <= revision:
                break
            found.add(moid)
        return found

    def _bump(self, moid: str) -> int:
        self.revision += 1
        self._journal.append((self.revision, moid))
        news, self._news = self._news, asyncio.Event()
        news.set()
        return self.revision

    def news(self) -> asyncio.Event:
        """What the next change sets. Take it before you look, so that no change in between is missed."""
        return self._news
