"""Property filters: what a client was told, what is different now, and the versions in between."""

from __future__ import annotations

import asyncio
from typing import Any

from pyVmomi import vmodl

from simulator.core import Call, Managed, Registry, method, prop
from simulator.wire.property_sets import PropertyPlan, missing_xml, reference_xml
from simulator.wire.session import Session
from simulator.wire.soap_write import RawXml, escape
from simulator.wire.traversal import select
from simulator.wire.views import ContainerView

__all__ = ["PropertyFilter", "PropertyWatch"]


class PropertyFilter(Managed):
    """One filter of a collector. It looks only at objects that changed since it looked last."""

    vim_type = vmodl.query.PropertyCollector.Filter

    def __init__(self, session: Session, watch: PropertyWatch, spec: Any, partial: bool, version: str) -> None:
        super().__init__(session.registry, session.new_moid())
        self.session = session
        self.watch = watch
        self.spec = spec
        self.partial = partial
        self.version = version
        self.plan = PropertyPlan(spec.propSet, version)
        self._told: dict[str, dict[str, int]] = {}
        self._types: dict[str, str] = {}
        self._selected: dict[str, Managed] = {}
        self._walked: set[str] = set()
        self._views: list[ContainerView] = []
        self._looked_at = -1
        self._select()

    @prop("spec")
    def spec_shown(self) -> Any:
        return self.spec

    @prop("partialUpdates")
    def partial_updates(self) -> bool:
        return self.partial

    @method("DestroyPropertyFilter")
    def destroy(self, call: Call) -> None:
        self.session.drop(self)

    def closed(self) -> None:
        """Called when the filter goes."""
        if self in self.watch.filters:
            self.watch.filters.remove(self)

    def reset(self) -> None:
        """Forget what the client was told, so that the next look tells everything."""
        self._told.clear()
        self._looked_at = -1

    def updates(self) -> list[str]:
        """`objectSet` elements for all that is different from what was told; counts as told from now on."""
        changed = self.registry.changed_since(self._looked_at) if self._looked_at >= 0 else None
        self._looked_at = self.registry.revision
        if changed is not None and not changed:
            return []
        found: list[str] = []
        if changed is None or self._membership_may_differ(changed):
            self._select()
            found = [self._leave(moid) for moid in tuple(self._told) if moid not in self._selected]
            candidates = [
                obj
                for moid, obj in self._selected.items()
                if changed is None or moid in changed or moid not in self._told
            ]
        else:
            candidates = [self._selected[moid] for moid in changed if moid in self._selected]
        for obj in candidates:
            if update := self._update(obj):
                found.append(update)
        return found

    def _membership_may_differ(self, changed: set[str]) -> bool:
        if any(moid in self._selected and self.session.find(moid) is None for moid in changed):
            return True
        return not changed.isdisjoint(self._walked) or any(view.stale(changed) for view in self._views)

    def _select(self) -> None:
        object_set = [spec for spec in self.spec.objectSet if self.session.find(spec.obj._moId) is not None]
        if self._looked_at < 0 and len(object_set) != len(self.spec.objectSet):
            object_set = self.spec.objectSet  # a new filter on an object that is not there is the caller's mistake
        selection = select(object_set, self.session.find, self.version)
        self._selected = {moid: obj for moid, obj in selection.objects.items() if self.plan.covers(obj.vim_type)}
        self._walked = selection.walked
        found = (self.session.find(moid) for moid in selection.walked)
        self._views = [obj for obj in found if isinstance(obj, ContainerView)]

    def _update(self, obj: Managed) -> str:
        read = self.plan.read(obj)
        now = {path: hash(value) for path, value in read.values.items()}
        before = self._told.get(obj.moid)
        self._told[obj.moid], self._types[obj.moid] = now, obj.vim_type._wsdlName
        changes = [
            f"<changeSet><name>{escape(path)}</name><op>assign</op>{value}</changeSet>"
            for path, value in read.values.items()
            if before is None or before.get(path) != now[path]
        ]
        changes += [
            f"<changeSet><name>{escape(path)}</name><op>remove</op></changeSet>"
            for path in before or ()
            if path not in now
        ]
        if before is not None and not changes:
            return ""
        kind = "enter" if before is None else "modify"
        return (
            f"<objectSet><kind>{kind}</kind>{reference_xml('obj', obj)}{''.join(changes)}"
            f"{missing_xml(read.missing, self.version)}</objectSet>"
        )

    def _leave(self, moid: str) -> str:
        del self._told[moid]
        wire_type = self._types.pop(moid)
        return f'<objectSet><kind>leave</kind><obj type="{wire_type}">{escape(moid)}</obj></objectSet>'


class PropertyWatch:
    """A collector's filters and the versions of what it has told its client.

    A client that repeats the version before the last one gets the last update set again: its answer was lost.
    """

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.filters: list[PropertyFilter] = []
        self._version = 0
        self._last: RawXml | None = None
        self._pending: list[tuple[PropertyFilter, str]] = []
        self._cancelled = asyncio.Event()

    def cancel(self) -> None:
        """End the call that waits, if there is one, with `RequestCanceled`."""
        self._cancelled.set()
        self._cancelled = asyncio.Event()

    async def wait(self, version: str, timeout_s: float | None, limit: int | None) -> RawXml | None:
        """The next update set, or `None` when `timeout_s` real seconds pass first (`None` waits for ever).

        Raises `vmodl.query.InvalidCollectorVersion` for a version that was never given out or is too old.
        """
        if version == "":
            self._pending.clear()
            self._last = None
            for each in self.filters:
                each.reset()
        elif version == str(self._version - 1) and self._last is not None:
            return self._last
        elif version != str(self._version):
            raise vmodl.query.InvalidCollectorVersion(msg=f"The collector is not at version {version}.")
        loop = asyncio.get_running_loop()
        deadline = None if timeout_s is None else loop.time() + timeout_s
        cancelled = self._cancelled
        while True:
            news = self.registry.news()
            if not self._pending:
                self._pending = [(each, update) for each in self.filters for update in each.updates()]
            if self._pending:
                return self._tell(limit)
            left = 3600.0 if deadline is None else deadline - loop.time()
            if left <= 0:
                return None
            if await _first(news, cancelled, left) is cancelled:
                raise vmodl.fault.RequestCanceled(msg="The wait for updates was canceled.")

    def _tell(self, limit: int | None) -> RawXml:
        told, self._pending = (self._pending, []) if limit is None else (self._pending[:limit], self._pending[limit:])
        self._version += 1
        by_filter: dict[PropertyFilter, list[str]] = {}
        for each, update in told:
            by_filter.setdefault(each, []).append(update)
        sets = "".join(
            f'<filterSet><filter type="PropertyFilter">{escape(each.moid)}</filter>{"".join(updates)}</filterSet>'
            for each, updates in by_filter.items()
        )
        truncated = "<truncated>true</truncated>" if self._pending else ""
        self._last = RawXml("UpdateSet", f"<returnval><version>{self._version}</version>{sets}{truncated}</returnval>")
        return self._last


async def _first(news: asyncio.Event, cancelled: asyncio.Event, timeout_s: float) -> asyncio.Event | None:
    """The event that is set first (the cancellation, when both are), or `None` after `timeout_s`."""
    waits = [asyncio.ensure_future(event.wait()) for event in (news, cancelled)]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return cancelled if cancelled.is_set() else news if news.is_set() else None
