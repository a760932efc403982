"""The property collector: bulk reads in pages, and filters that tell what changed."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

from pyVmomi import vmodl

from simulator.core import Call, Managed, method, prop
from simulator.wire.property_filter import PropertyFilter, PropertyWatch
from simulator.wire.property_sets import PropertyPlan, object_content
from simulator.wire.session import Session
from simulator.wire.soap_write import RawXml
from simulator.wire.traversal import Find, select
from simulator.wire.versions import parse_version

__all__ = ["PropertyCollector"]

_BREATH = 500
"""After so many objects a bulk read lets other calls run."""

_MAX_TOKENS = 100


class PropertyCollector(Managed):
    """A session's default collector (`propertyCollector`), or one that it created."""

    vim_type = vmodl.query.PropertyCollector
    DEFAULT = "propertyCollector"
    """The moid of every session's default collector."""

    def __init__(self, session: Session, moid: str = DEFAULT) -> None:
        super().__init__(session.registry, moid)
        self.session = session
        self.watch = PropertyWatch(session.registry)
        self._rest: dict[str, tuple[list[tuple[Managed, PropertyPlan]], int | None]] = {}

    @prop("filter")
    def filters(self) -> list[Any]:
        return [each.ref() for each in self.watch.filters]

    @method("RetrieveProperties")
    async def retrieve_properties(self, call: Call, specSet: list[Any]) -> RawXml:
        selected = self._select(specSet, call)
        return RawXml("ArrayOfObjectContent", await _contents("returnval", selected, self.session.find))

    @method("RetrievePropertiesEx")
    async def retrieve_properties_ex(self, call: Call, specSet: list[Any], options: Any) -> RawXml | None:
        limit = options.maxObjects if options is not None else None
        if limit is not None and limit <= 0:
            raise vmodl.fault.InvalidArgument(invalidProperty="options.maxObjects", msg=f"maxObjects is {limit}.")
        selected = self._select(specSet, call)
        return await self._page(selected, limit) if selected else None

    @method("ContinueRetrievePropertiesEx")
    async def continue_retrieve_properties_ex(self, call: Call, token: str) -> RawXml:
        return await self._page(*self._rest_of(token))

    @method("CancelRetrievePropertiesEx")
    def cancel_retrieve_properties_ex(self, call: Call, token: str) -> None:
        self._rest_of(token)

    @method("CreateFilter")
    def create_filter(self, call: Call, spec: Any, partialUpdates: bool) -> Managed:
        made = PropertyFilter(self.session, self.watch, spec, partialUpdates, parse_version(call.api_version))
        self.watch.filters.append(made)
        return self.session.add(made)

    @method("CreatePropertyCollector")
    def create_property_collector(self, call: Call) -> Managed:
        return self.session.add(PropertyCollector(self.session, self.session.new_moid()))

    @method("DestroyPropertyCollector")
    def destroy(self, call: Call) -> None:
        if self.moid == self.DEFAULT:
            raise vmodl.fault.NotSupported(msg="The default property collector cannot be destroyed.")
        self.session.drop(self)

    def closed(self) -> None:
        """Called when the collector goes: its filters go with it, and a waiting call ends."""
        self.watch.cancel()
        for each in tuple(self.watch.filters):
            self.session.drop(each)

    @method("WaitForUpdatesEx")
    async def wait_for_updates_ex(self, call: Call, version: str | None, options: Any) -> RawXml | None:
        limit = options.maxObjectUpdates if options is not None else None
        timeout_s = options.maxWaitSeconds if options is not None else None
        if (timeout_s is not None and timeout_s < 0) or (limit is not None and limit <= 0):
            raise vmodl.fault.InvalidArgument(invalidProperty="options", msg="Limits must be positive.")
        return await self.watch.wait(version or "", timeout_s, limit)

    @method("WaitForUpdates")
    async def wait_for_updates(self, call: Call, version: str | None) -> RawXml | None:
        return await self.watch.wait(version or "", None, None)

    @method("CheckForUpdates")
    async def check_for_updates(self, call: Call, version: str | None) -> RawXml | None:
        return await self.watch.wait(version or "", 0, None)

    @method("CancelWaitForUpdates")
    def cancel_wait_for_updates(self, call: Call) -> None:
        self.watch.cancel()

    def _select(self, spec_set: list[Any], call: Call) -> list[tuple[Managed, PropertyPlan]]:
        version = parse_version(call.api_version)
        selected: list[tuple[Managed, PropertyPlan]] = []
        for spec in spec_set:
            plan = PropertyPlan(spec.propSet, version)
            objects = select(spec.objectSet, self.session.find, version).objects
            selected.extend((obj, plan) for obj in objects.values() if plan.covers(obj.vim_type))
        return selected

    async def _page(self, selected: list[tuple[Managed, PropertyPlan]], limit: int | None) -> RawXml:
        page, rest = (selected, []) if limit is None else (selected[:limit], selected[limit:])
        token = ""
        if rest:
            if len(self._rest) >= _MAX_TOKENS:
                self._rest.pop(next(iter(self._rest)))
            key = uuid.uuid4().hex
            self._rest[key] = (rest, limit)
            token = f"<token>{key}</token>"
        objects = await _contents("objects", page, self.session.find)
        return RawXml("RetrieveResult", f"<returnval>{token}{objects}</returnval>")

    def _rest_of(self, token: str) -> tuple[list[tuple[Managed, PropertyPlan]], int | None]:
        try:
            return self._rest.pop(token)
        except KeyError:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="token", msg="The token is unknown or was used already."
            ) from None


async def _contents(tag: str, selected: list[tuple[Managed, PropertyPlan]], find: Find) -> str:
    """Objects that went away since they were selected are left out."""
    parts: list[str] = []
    for count, (obj, plan) in enumerate(selected, 1):
        if find(obj.moid) is obj:
            parts.append(object_content(tag, obj, plan))
        if count % _BREATH == 0:
            await asyncio.sleep(0)
    return "".join(parts)
