"""The event manager: the newest event, queries, collectors and what kinds of events there are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, Registry, method, prop
from simulator.event_catalogue import description
from simulator.eventlog import LoggedEvent
from simulator.wire.event_collectors import COLLECTORS_PER_SESSION, MAX_PAGE, EventHistoryCollector, page_of
from simulator.wire.event_filter import EventFilter
from simulator.wire.session import Session
from simulator.wire.soap_write import RawAnswer

__all__ = ["EventManager"]


class EventManager(Managed):
    """`content.eventManager`."""

    vim_type = vim.event.EventManager

    def __init__(self, registry: Registry, moid: str) -> None:
        super().__init__(registry, moid)
        registry.events.listeners.append(self._news)

    def _news(self, events: Sequence[LoggedEvent]) -> None:
        self.touch()

    @prop("latestEvent")
    def latest_event(self) -> Any:
        return self.registry.events.latest

    @prop("maxCollector")
    def max_collector(self) -> int:
        return COLLECTORS_PER_SESSION

    @prop("description")
    def description_shown(self) -> Any:
        return description(self.registry.events.version)

    @method("QueryEvents")
    def query_events(self, call: Call, filter: Any) -> RawAnswer:
        log = self.registry.events
        limit = min(filter.maxCount or MAX_PAGE, MAX_PAGE)
        return page_of(EventFilter(filter, self.registry).first(log.backwards(log.end_serial), limit), call)

    @method("CreateCollectorForEvents")
    def create_collector(self, call: Call, filter: Any) -> Managed:
        session = call.session
        if not isinstance(session, Session):
            raise TypeError("collectors are made over the wire only")
        if sum(1 for _ in session.of_type(EventHistoryCollector)) >= COLLECTORS_PER_SESSION:
            raise vim.fault.InvalidState(msg=f"A session has at most {COLLECTORS_PER_SESSION} event collectors.")
        return session.add(EventHistoryCollector(session, filter))

    @method("PostEvent")
    def post_event(self, call: Call, eventToPost: Any, taskInfo: Any) -> None:
        eventToPost.userName = call.session.user
        if taskInfo is not None:
            eventToPost.chainId = taskInfo.eventChainId
        self.registry.events.post(eventToPost)

    @method("LogUserEvent")
    def log_user_event(self, call: Call, entity: Any, msg: str) -> None:
        event = vim.event.GeneralUserEvent(message=msg, userName=call.session.user)
        found = self.registry.objects.get(entity._moId)
        if found is None:
            raise vmodl.fault.ManagedObjectNotFound(obj=entity, msg=f"There is no {entity._moId}.")
        event.entity = vim.event.ManagedEntityEventArgument(name=found.read("name"), entity=found.ref())
        self.registry.events.post(event)

    @method("RetrieveArgumentDescription")
    def retrieve_argument_description(self, call: Call, eventTypeId: str) -> list[Any]:
        return []
