"""Events as a busy vCenter logs them: much that nobody listens for, and a part that somebody does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from random import Random
from typing import Any

from pyVmomi import vim
from pyVmomi.VmomiSupport import GuessWsdlType

from simulator.core import Managed, Registry
from simulator.event_templates import EventTemplate

__all__ = ["EventMix", "event_about"]

_POOL = 512
"""So many different events are made for a mix; it repeats them."""
_USERS = (
    "VSPHERE.LOCAL\\Administrator",
    "VSPHERE.LOCAL\\backup",
    "VSPHERE.LOCAL\\monitoring",
    "com.vmware.vcIntegrity",
)


class EventMix:
    """`count` events, of which the share `matching` is of type `matching_type` (or has this `eventTypeId`).

    Those are about the entities `about` (hosts, VMs), each as often as chance will have it; the same seed makes the
    same mix of the same inventory. Raises `ValueError` for a share that is none and for a type that cannot be made.
    """

    def __init__(
        self, registry: Registry, count: int, matching: float, matching_type: str, about: Sequence[Managed], seed: int
    ) -> None:
        if not 0 <= matching <= 1:
            raise ValueError(f"matching: {matching} is no share between 0 and 1")
        dice = Random(seed)
        self.count = count
        self._matching = frozenset(dice.sample(range(count), round(count * matching)))
        if self._matching and not about:
            raise ValueError("about: there is no host or VM that the matching events could be about")
        self._registry = registry
        self._type, self._about = matching_type, about
        self._ready: dict[str, EventTemplate] = {}
        self._pool = _noise(registry, dice) if len(self._matching) < count else []
        self._dice = dice
        self._next = 0
        if self._matching:
            # What cannot be made is refused before anything is posted.
            for entity in {each.vim_type: each for each in about}.values():
                self._match(entity)

    @property
    def matching(self) -> list[int]:
        """Which events of the mix match, by number."""
        return sorted(self._matching)

    @property
    def left(self) -> int:
        """How many events of the mix have not been taken yet."""
        return self.count - self._next

    def take(self, most: int) -> Iterator[EventTemplate]:
        """The next events, at most so many."""
        begin, self._next = self._next, min(self.count, self._next + most)
        chance, pool = self._dice.random, self._pool
        for number in range(begin, self._next):
            if number in self._matching:
                yield self._match(self._dice.choice(self._about))
            else:
                yield pool[int(chance() * _POOL)]

    def _match(self, entity: Managed) -> EventTemplate:
        if entity.moid not in self._ready:
            self._ready[entity.moid] = self._registry.events.template(event_about(self._type, entity))
        return self._ready[entity.moid]


def event_about(kind: str, entity: Managed) -> Any:
    """An event of a type such as `HostAddedEvent`, or with an `eventTypeId` (it has dots), about a host or VM.

    Raises `ValueError` when there is no such type, or none about such an entity.
    """
    if "." in kind:
        event_type: Any = vim.event.EventEx
    else:
        try:
            event_type = GuessWsdlType(kind)
        except KeyError:
            raise ValueError(
                f"{kind!r} is no type of event: use one such as HostAddedEvent, or an eventTypeId"
            ) from None
        if not issubclass(event_type, vim.event.Event):
            raise ValueError(f"{kind!r} is no type of event")
    event = event_type()
    name = entity.read("name")
    if isinstance(event, vim.event.EventEx):
        event.eventTypeId, event.objectId, event.objectName = kind, entity.moid, name
        event.objectType, event.severity = entity.vim_type, "info"
    if issubclass(entity.vim_type, vim.HostSystem):
        event.host = vim.event.HostEventArgument(name=name, host=entity.ref())
    else:
        event.vm = vim.event.VmEventArgument(name=name, vm=entity.ref())
    if isinstance(event, vim.event.VmEvent):
        event.template = False
    return event


def _noise(registry: Registry, dice: Random) -> list[EventTemplate]:
    """A pool to draw from: each kind as often as it is in a vCenter's log, about entities of the inventory."""
    log, objects = registry.events, registry.objects.values()
    hosts = [each for each in objects if issubclass(each.vim_type, vim.HostSystem)]
    vms = [each for each in objects if issubclass(each.vim_type, vim.VirtualMachine)]
    kinds: list[tuple[Callable[[], Any], int]] = [(partial(_login, dice), 12), (partial(_logout, dice), 12)]
    if vms:
        kinds += [(partial(_drawn, _about_vm, kind, vms, dice), share) for kind, share in _VM_KINDS]
    if hosts:
        kinds += [(partial(_drawn, event_about, kind, hosts, dice), share) for kind, share in _HOST_KINDS]
        kinds += [(partial(_task, hosts + vms, dice), 20), (partial(_alarm, hosts + vms, dice), 8)]
    makers, shares = zip(*kinds, strict=True)
    return [log.template(make()) for make in dice.choices(makers, shares, k=_POOL)]


_VM_KINDS = (
    ("VmPoweredOnEvent", 6),
    ("VmGuestRebootEvent", 3),
    ("VmMessageEvent", 4),
    ("VmAcquiredTicketEvent", 10),
    ("VmMacAssignedEvent", 3),
    ("VmUuidAssignedEvent", 3),
    ("com.vmware.vc.guestOperations.GuestOperation", 8),
)
_HOST_KINDS = (
    ("esx.audit.ssh.session.opened", 3),
    ("esx.problem.scsi.device.io.latency.high", 6),
    ("com.vmware.vc.host.clear.vFlashResource.inaccessible", 1),
    ("esx.audit.dcui.enabled", 1),
)


def _drawn(make: Callable[[str, Managed], Any], kind: str, entities: Sequence[Managed], dice: Random) -> Any:
    return make(kind, dice.choice(entities))


def _about_vm(kind: str, vm: Managed) -> Any:
    event = event_about(kind, vm)
    for name, value in _VM_FIELDS.get(kind, {}).items():
        setattr(event, name, value)
    return event


_VM_FIELDS: dict[str, dict[str, str]] = {
    "VmMessageEvent": {"message": "The disk cache is <almost> full & slow.\n"},
    "VmAcquiredTicketEvent": {"ticketType": "webmks"},
    "VmMacAssignedEvent": {"adapter": "Network adapter 1", "mac": "00:50:56:9a:12:34"},
    "VmUuidAssignedEvent": {"uuid": "421a6a8e-6c1d-4d0c-9a70-0f5b0c0a9e11"},
}


def _login(dice: Random) -> Any:
    return vim.event.UserLoginSessionEvent(
        userName=dice.choice(_USERS),
        ipAddress=f"10.0.{dice.randrange(8)}.{dice.randrange(256)}",
        userAgent="VMware vim-java 1.0",
        locale="en",
        sessionId=f"{dice.getrandbits(128):032x}",
    )


def _logout(dice: Random) -> Any:
    return vim.event.UserLogoutSessionEvent(
        userName=dice.choice(_USERS),
        ipAddress=f"10.0.{dice.randrange(8)}.{dice.randrange(256)}",
        userAgent="VMware vim-java 1.0",
        callCount=dice.randrange(500),
        sessionId=f"{dice.getrandbits(128):032x}",
    )


def _task(entities: Sequence[Managed], dice: Random) -> Any:
    entity = dice.choice(entities)
    moid = f"task-{dice.randrange(10**6)}"
    info = vim.TaskInfo(
        key=moid,
        task=vim.Task(moid),
        descriptionId="VirtualMachine.reconfigure",
        entity=entity.ref(),
        entityName=entity.read("name"),
        state="queued",
        cancelled=False,
        cancelable=False,
        reason=vim.TaskReasonUser(userName=dice.choice(_USERS)),
        queueTime=entity.registry.clock.now(),
        eventChainId=dice.randrange(10**6),
    )
    return vim.event.TaskEvent(info=info, userName=info.reason.userName)


def _alarm(entities: Sequence[Managed], dice: Random) -> Any:
    entity = dice.choice(entities)
    name = entity.read("name")
    argument = vim.event.ManagedEntityEventArgument(entity=entity.ref(), name=name)
    event = vim.event.AlarmStatusChangedEvent(
        alarm=vim.event.AlarmEventArgument(alarm=vim.alarm.Alarm("alarm-5"), name="Memory usage"),
        source=argument,
        entity=argument,
    )
    setattr(event, "from", dice.choice(("green", "yellow")))
    event.to = "red"
    return event
