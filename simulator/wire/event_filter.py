"""Event filters: which logged events a collector or a query shows."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import Any

from pyVmomi import vim, vmodl
from pyVmomi.VmomiSupport import GetWsdlName

from simulator.core import Registry
from simulator.eventlog import LoggedEvent

__all__ = ["EventFilter"]

_DYNAMIC = frozenset({"EventEx", "ExtendedEvent", "vim.event.EventEx", "vim.event.ExtendedEvent"})


class EventFilter:
    """A compiled `EventFilterSpec`. `type` and `eventTypeId` add up: an event matches either.

    An `EventEx` or `ExtendedEvent` has to have the `eventTypeId`; any other event is of the type that is named there,
    or of one below it. Letter case counts.

    Raises `InvalidArgument` for a recursion that does not exist, `ManagedObjectNotFound` for an unknown entity.
    """

    def __init__(self, spec: Any, registry: Registry) -> None:
        self.spec = spec
        names = {GetWsdlName(each) if isinstance(each, type) else str(each) for each in spec.type or ()}
        self._names = frozenset(names)
        self._type_ids = frozenset(spec.eventTypeId or ())
        self._of_type: dict[frozenset[str], bool] = {}
        """By the names of an event: all events of a kind share one set of them."""
        self._users = frozenset(spec.userName.userList or ()) if spec.userName else None
        self._system_user = bool(spec.userName.systemUser) if spec.userName else False
        self._begin = spec.time.beginTime if spec.time else None
        self._end = spec.time.endTime if spec.time else None
        self._chain_id = spec.eventChainId
        self._task = spec.task._moId if getattr(spec, "task", None) else None
        self._entity, self._recursion = None, ""
        if spec.entity is not None:
            self._entity, self._recursion = spec.entity.entity._moId, str(spec.entity.recursion)
            if self._recursion not in ("self", "children", "all"):
                raise vmodl.fault.InvalidArgument(
                    invalidProperty="entity.recursion",
                    msg=f"recursion is {self._recursion!r}: use self, children or all.",
                )
            found = registry.objects.get(self._entity)
            if found is None:
                raise vmodl.fault.ManagedObjectNotFound(obj=spec.entity.entity, msg=f"There is no {self._entity}.")
            # Everything happens somewhere below the root, also what names no entity at all.
            if issubclass(found.vim_type, vim.Folder) and found.read("parent") is None and self._recursion == "all":
                self._entity = None

        self._lets_all_through = (
            not self._names
            and not self._type_ids
            and self._entity is self._begin is self._end is self._users is self._chain_id is None
        )

    def first(self, events: Iterator[LoggedEvent], most: int) -> list[LoggedEvent]:
        """The first events that the filter lets through, at most so many."""
        return list(islice(events if self._lets_all_through else filter(self.matches, events), most))

    def matches(self, event: LoggedEvent) -> bool:
        """Whether the filter lets an event through."""
        if (self._names or self._type_ids) and not self._is_of_type(event.names):
            return False
        if self._entity is not None and not self._about_entity(event):
            return False
        if self._begin is not None and event.created < self._begin:
            return False
        if self._end is not None and event.created > self._end:
            return False
        if self._users is not None and not (event.user in self._users or (self._system_user and not event.user)):
            return False
        return self._chain_id is None or event.chain_id == self._chain_id

    def _is_of_type(self, names: frozenset[str]) -> bool:
        known = self._of_type.get(names)
        if known is None:
            dynamic = not _DYNAMIC.isdisjoint(names)
            asked = self._type_ids - _DYNAMIC - {"Event"} if dynamic else self._type_ids
            known = self._of_type[names] = not (self._names | asked).isdisjoint(names)
        return known

    def _about_entity(self, event: LoggedEvent) -> bool:
        # An event about a host also names the host's cluster and datacenter: it is about them too.
        if self._recursion == "self":
            return self._entity in event.about
        if self._recursion == "children":
            return self._entity in event.within
        return self._entity in event.about or self._entity in event.within
