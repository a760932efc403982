"""Reading properties of many objects in one round trip, and waiting for them to change."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import IsChildVersion

from contracts.errors import Unreachable
from vsphere.faults import words
from vsphere.sessions import content

__all__ = ["Read", "TargetGone", "Watch", "knows", "read_below", "read_properties", "traversal", "watching"]

PC = vmodl.query.PropertyCollector
_PAGE = 1000
"""Objects in one answer, so that none takes longer than a call may."""


@dataclass
class Read:
    """One object's properties as `path → value`. Absent paths are unset; `missing` could not be read, with why."""

    obj: Any
    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def get(self, path: str, default: Any = None) -> Any:
        """The value, or `default` where unset."""
        return self.values.get(path, default)


def traversal(obj_type: Any, path: str, *then: Any) -> Any:
    """A step from objects of `obj_type` along a reference property; `then` are further steps."""
    return PC.TraversalSpec(type=obj_type, path=path, skip=False, selectSet=list(then))


def knows(si: vim.ServiceInstance, data_type: Any, path: str) -> bool:
    """The negotiated API version has this property (dotted path): newer ones vanish on write and fail on read.

    Of `config.extraConfig["key"]` only what is before the key has a declared type.
    """
    kind = data_type
    for name in path.partition("[")[0].split("."):
        info = kind._GetPropertyInfo(name)
        if not IsChildVersion(si._stub.version, info.version):
            return False
        kind = info.type
    return True


def read_properties(
    si: vim.ServiceInstance,
    start: Any,
    paths: dict[Any, Sequence[str]],
    steps: Sequence[Any] = (),
    skip_start: bool = False,
) -> dict[str, Read]:
    """Properties by moid, of `start` and what `steps` lead to, in one `RetrievePropertiesEx` plus its continuations.

    `paths` lists the property paths by type. Raises vSphere's own faults; `ManagedObjectNotFound` when `start` is gone.
    """
    collector = content(si).propertyCollector
    spec = PC.FilterSpec(
        objectSet=[PC.ObjectSpec(obj=start, skip=skip_start, selectSet=list(steps))],
        propSet=[
            PC.PropertySpec(type=kind, pathSet=[path for path in names if knows(si, kind, path)])
            for kind, names in paths.items()
        ],
    )
    found: dict[str, Read] = {}
    result = collector.RetrievePropertiesEx([spec], PC.RetrieveOptions(maxObjects=_PAGE))
    while result is not None:
        for item in result.objects:
            read = found.setdefault(item.obj._moId, Read(item.obj))
            read.values.update((change.name, change.val) for change in item.propSet)
            read.missing.update((lack.path, words(lack.fault)) for lack in item.missingSet)
        result = collector.ContinueRetrievePropertiesEx(result.token) if result.token else None
    return found


def read_below(si: vim.ServiceInstance, start: Any, paths: dict[Any, Sequence[str]]) -> dict[str, Read]:
    """Properties by moid of everything of these types below `start`, through a container view."""
    view = content(si).viewManager.CreateContainerView(start, list(paths), True)
    try:
        return read_properties(si, view, paths, [traversal(vim.view.ContainerView, "view")], skip_start=True)
    finally:
        view.DestroyView()


class TargetGone(Exception):
    """The watched object no longer exists."""


class Watch:
    """The current values of one object's properties; made by `watching`."""

    def __init__(self, collector: Any, target: Any) -> None:
        self._collector = collector
        self._target = target
        self._version = ""
        self.values: dict[str, Any] = {}

    def wait(self, max_wait_s: int) -> bool:
        """Wait for a change (the first call returns at once) and take it into `values`; False when there was none."""
        options = PC.WaitOptions(maxWaitSeconds=max_wait_s)
        try:
            update = self._collector.WaitForUpdatesEx(self._version, options)
        except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated) as fault:
            gone = getattr(fault, "obj", None)
            if gone is not None and gone._moId == self._target._moId:
                raise TargetGone from fault
            raise Unreachable(f"the session ended while waiting for {self._target._moId}: {words(fault)}") from fault
        if update is None:
            return False
        self._version = update.version
        for changed in update.filterSet:
            for missing in changed.missingSet:
                if isinstance(missing.fault, vmodl.fault.ManagedObjectNotFound):
                    raise TargetGone
                raise missing.fault
            for item in changed.objectSet:
                if item.kind == "leave":
                    raise TargetGone
                self.values.update((change.name, change.val) for change in item.changeSet)
        return True

    def until(
        self,
        done: Callable[[dict[str, Any]], bool],
        heartbeat: Callable[[dict[str, Any]], None],
        timeout_s: float,
        max_wait_s: int = 10,
    ) -> bool:
        """Wait until `done(values)`; False after `timeout_s`. `heartbeat` gets them every `max_wait_s` or sooner."""
        deadline = time.monotonic() + timeout_s
        while True:
            left = deadline - time.monotonic()
            self.wait(max(0, min(max_wait_s, round(left))))
            heartbeat(self.values)
            if done(self.values):
                return True
            if left <= 0:
                return False


@contextmanager
def watching(si: vim.ServiceInstance, target: Any, paths: Sequence[str]) -> Iterator[Watch]:
    """Watch properties of one object through a collector of its own; raises `TargetGone` when it does not exist.

    The session's default collector is shared by every thread and never waited on.
    """
    collector = content(si).propertyCollector.CreatePropertyCollector()
    try:
        spec = PC.FilterSpec(
            objectSet=[PC.ObjectSpec(obj=target)], propSet=[PC.PropertySpec(type=type(target), pathSet=list(paths))]
        )
        try:
            collector.CreateFilter(spec, partialUpdates=False)
        except vmodl.fault.ManagedObjectNotFound as fault:
            raise TargetGone from fault
        yield Watch(collector, target)
    finally:
        try:
            collector.DestroyPropertyCollector()
        except (vmodl.fault.ManagedObjectNotFound, vim.fault.NotAuthenticated, Unreachable):
            # It ended with its session: there is nothing left to destroy.
            collector = None
