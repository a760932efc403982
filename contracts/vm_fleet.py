"""Messages of `ProvisionGpuVms` and its activity: several GPU VMs of one shape, asked for at once."""

from datetime import datetime
from enum import StrEnum
from typing import Self

from pydantic import Field, model_validator

from contracts.base import Message
from contracts.host import HostRef
from contracts.provision import VmOutcome
from contracts.vms import VmRequest

__all__ = [
    "MOST_VMS",
    "MOST_VMS_AT_ONCE",
    "Arrangement",
    "GpuVmsReport",
    "LookForRoom",
    "ProvisionGpuVmsInput",
    "RoomFound",
    "VmProgress",
    "VmTurn",
    "VmsOutcome",
    "VmsStage",
]

MOST_VMS = 200
"""VMs of one request: each costs its run a dozen events and one report."""
MOST_VMS_AT_ONCE = 64


class Arrangement(StrEnum):
    """How VMs are put onto hosts."""

    SPREAD = "spread"
    """As evenly as there is room."""
    PACKED = "packed"
    """One host is filled before the next one is begun."""


class ProvisionGpuVmsInput(Message):
    """Make VMs of one shape: `request.name` is the base of their names, `base-01` and so on."""

    request: VmRequest
    count: int = Field(ge=2, le=MOST_VMS)
    arrangement: Arrangement = Arrangement.SPREAD
    at_once: int = Field(default=8, ge=1, le=MOST_VMS_AT_ONCE)
    """Runs of VMs at a time."""
    requester: str
    reason: str = ""

    @model_validator(mode="after")
    def _many(self) -> Self:
        request = self.request
        if any(wish.kind == "static" for wish in request.gpus):
            raise ValueError("gpus: a static device is in one VM at most; ask for kind dynamic, or for one VM")
        who = request.customization
        if who is not None and who.ip is not None:
            raise ValueError("customization.ip: an address is one VM's; leave it out (DHCP), or ask for one VM")
        if who is not None and who.host_name is not None:
            raise ValueError("customization.host_name: it is one VM's; leave it out and each gets its VM's name")
        if len(self.names[-1]) > 80:
            raise ValueError(f"name: {self.names[-1]!r} has more than vCenter's 80 characters; choose a shorter one")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The VMs' names, numbered from 1 with at least two digits."""
        width = max(2, len(str(self.count)))
        return tuple(f"{self.request.name}-{number:0{width}}" for number in range(1, self.count + 1))

    def each(self, name: str) -> VmRequest:
        """The request of one of them."""
        return self.request.model_copy(update={"name": name})


class LookForRoom(Message):
    """Input of `look_for_room`."""

    request: VmRequest
    names: tuple[str, ...]
    """Of the VMs that are to be had."""
    arrangement: Arrangement


class RoomFound(Message):
    """How many such VMs could be had now, and where."""

    there: tuple[str, ...] = ()
    """Those of the names that a GPU VM of the cluster has: their own runs tell whether they are as asked for."""
    hosts: tuple[HostRef, ...] = ()
    """A host for each of the others that fits."""
    named: bool = False
    """The VMs are to be told their hosts, because DRS would not place them so."""
    why: str = ""
    """What stands in the way of even one, and its fix."""
    error: str = ""
    """The class of that (`contracts.errors`)."""


class VmsStage(StrEnum):
    """Values of the search attribute `GpuStage` for a request of several VMs."""

    LOOKING = "looking"
    PROVISIONING = "provisioning"
    FINISHED = "finished"


class VmTurn(StrEnum):
    """How far one of the VMs is."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    NOT_STARTED = "not-started"
    """Nothing was made of it: there was no room, or the run was cancelled before its turn."""


class VmProgress(Message):
    """One VM's line in the report."""

    name: str
    state: VmTurn = VmTurn.WAITING
    outcome: VmOutcome | None = None
    """How its own run ended; None while it goes on, and where it was cancelled or terminated."""
    error: str = ""
    """The class of what went wrong (`contracts.errors`)."""
    text: str = ""
    """Why, with the fix; at most 1,000 characters, its own run says all of it."""
    host: str = ""
    ip_address: str = ""
    workflow_id: str = ""
    """Of its own run, once there is one."""


class VmsOutcome(StrEnum):
    """How a request of several VMs ended."""

    PROVISIONED = "provisioned"
    PROVISIONED_IN_PART = "provisioned-in-part"
    """Some are there and proven; each of the others says why not."""
    REFUSED = "refused"
    """None could be had."""


class GpuVmsReport(Message):
    """The result, and the answer to the query `report` while the run goes on."""

    request: VmRequest
    count: int
    arrangement: Arrangement
    requester: str
    stage: VmsStage
    outcome: VmsOutcome | None = None
    detail: str = ""
    fit: int | None = None
    """How many of them were there, or had room, at the first look."""
    vms: tuple[VmProgress, ...] = ()
    started_at: datetime | None = None
    finished_at: datetime | None = None
