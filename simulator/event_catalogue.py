"""What vCenter tells of its events: each type, and each `eventTypeId` that extensions registered."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pyVmomi import vim
from pyVmomi.VmomiSupport import GetVmodlType, GetWsdlName, ListDataTypes

from simulator.eventlog import words_of
from simulator.wire.versions import exists_in

__all__ = ["TYPE_IDS", "description"]

TYPE_IDS = (
    "com.vmware.vc.HA.ClusterFailoverActionCompletedEvent",
    "com.vmware.vc.HA.ClusterFailoverActionInitiatedEvent",
    "com.vmware.vc.HA.DasHostCompleteDatastoreFailureEvent",
    "com.vmware.vc.HA.DasHostFailedEvent",
    "com.vmware.vc.HA.DasHostIsolatedEvent",
    "com.vmware.vc.HA.HostStateChangedEvent",
    "com.vmware.vc.ha.VmRestartedByHAEvent",
    "com.vmware.vc.guestOperations.GuestOperation",
    "com.vmware.vc.host.clear.vFlashResource.inaccessible",
    "esx.audit.dcui.enabled",
    "esx.audit.ssh.session.opened",
    "esx.problem.scsi.device.io.latency.high",
)
"""Of `EventEx`; a vCenter 8.0 knows some 1,700."""
_CATEGORIES = (("info", "Information"), ("warning", "Warning"), ("error", "Error"), ("user", "User"))
_ERROR_WORDS = ("Failed", "Failure", "Error", "Lost", "NotEnough", "Orphaned")


@lru_cache(maxsize=1)
def description(version: str) -> Any:
    """`EventManager.description` in an API version."""
    return vim.event.EventDescription(
        category=[vim.ElementDescription(key=key, label=label, summary=label) for key, label in _CATEGORIES],
        eventInfo=[*_types(version), *(_detail(vim.event.EventEx, each, f"{each}|{{message}}") for each in TYPE_IDS)],
    )


def _types(version: str) -> Iterator[Any]:
    for name in sorted(ListDataTypes()):
        if not name.startswith("vim.event."):
            continue
        event_type = GetVmodlType(name)
        if not issubclass(event_type, vim.event.Event) or not exists_in(version, event_type._version):
            continue
        # Of these each `eventTypeId` has an entry, whose formats begin with it, and the type itself has none.
        if event_type not in (vim.event.EventEx, vim.event.ExtendedEvent):
            name = GetWsdlName(event_type)
            yield _detail(event_type, name, words_of(name))


def _detail(event_type: Any, name: str, words: str) -> Any:
    return vim.event.EventDescription.EventDetail(
        key=event_type,
        description=words_of(name.rpartition(".")[2]),
        category=_category(name),
        formatOnDatacenter=words,
        formatOnComputeResource=words,
        formatOnHost=words,
        formatOnVm=words,
        fullFormat=words,
    )


def _category(name: str) -> str:
    if any(word in name for word in _ERROR_WORDS):
        return "error"
    return "warning" if "Warning" in name or "Isolated" in name else "info"
