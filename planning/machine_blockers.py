"""What forbids making or changing a GPU VM, known before anything is touched."""

from collections import Counter

from contracts.machine import Placement, VmState, VmTarget
from contracts.plan import Blocker
from contracts.vms import VmRequest
from planning.gpu_models import model_names
from planning.machine_rules import devices_of, hardware_wanted
from planning.rooms import pairs_of

__all__ = ["owner_blockers", "refusal", "source_blockers", "unreachable_blockers"]

_PASSING = {
    "in-use",
    "too-few",
    "maintenance",
    "not-connected",
    "standby",
    "memory-reservation",
    "mixed-size",
    "mig-slices",
}
"""Reasons that go away by themselves or by others' doing; the rest is about what the cluster has."""


def refusal(request: VmRequest, placement: Placement) -> Blocker:
    """Why no host can take the VM: each reason once, with the hosts that have it."""
    if not placement.hosts:
        return Blocker(
            code="no-gpu-host",
            text=f"cluster {request.cluster} has no host with a GPU",
            fix="name another cluster, or prepare hosts (`gpuwright prepare-cluster`)",
            error="NotSupported",
        )
    whys = Counter((fit.code not in _PASSING, fit.why) for fit in placement.hosts)
    # What goes away by itself is told first: those hosts would do.
    nearest = sorted(whys, key=lambda each: (each[0], -whys[each]))[:5]
    told = [
        f"{', '.join(fit.host.name for fit in placement.hosts if fit.why == why)[:200]}: {why}" for _, why in nearest
    ]
    passing = any(fit.code in _PASSING for fit in placement.hosts)
    return Blocker(
        code="no-room",
        text=f"none of the {len(placement.hosts)} GPU hosts of {request.cluster} can take it. " + " | ".join(told),
        fix="wait until a GPU is free, retire a VM, or ask for another GPU" if passing
        else "ask for GPUs that the cluster has, or prepare its hosts for this mode (`gpuwright prepare-cluster`)",
        error="Conflict" if passing else "NotSupported",
    )  # fmt: skip


def source_blockers(request: VmRequest, target: VmTarget) -> tuple[Blocker, ...]:
    """What makes the source unfit for GPUs."""
    found = []
    if target.source_firmware == "bios":
        found.append(
            Blocker(
                code="source-bios",
                text=f"{request.source.template or request.source.library_item} was installed with BIOS firmware, and "
                "GPUs need EFI; an installed guest does not boot after a change of firmware",
                fix="name a template that was installed with EFI",
                error="NotSupported",
            )
        )
    guest = target.source_guest_id or request.source.guest_id or ""
    if guest and "64" not in guest:
        found.append(
            Blocker(
                code="guest-32-bit",
                text=f"guest OS {guest} is not a 64-bit one, which GPUs need",
                fix="name another source",
                error="NotSupported",
            )
        )
    for wish in request.gpus:
        if wish.kind == "dynamic" and not pairs_of(wish):
            found.append(
                Blocker(
                    code="unknown-model",
                    text=f"no GPU model is called {wish.model!r}; known: {', '.join(model_names())}",
                    fix="name one of these, or the GPU's vendor:device",
                    error="BadRequest",
                )
            )
    version = hardware_wanted(request, target.source_hardware, target.newest_hardware)
    limit, asked = target.gpu_limits.get(version), len(devices_of(request.gpus))
    if limit is not None and asked > limit:
        found.append(
            Blocker(
                code="too-many-devices",
                text=f"{asked} GPUs are asked for, and hardware version {version} allows {limit}",
                fix="ask for fewer, or name a source of a newer hardware version",
                error="NotSupported",
            )
        )
    return tuple(found)


def owner_blockers(state: VmState) -> tuple[Blocker, ...]:
    """A VM that is not people's to change."""
    if state.managed_by:
        return (
            Blocker(
                code="managed",
                text=f"{state.ref.name} belongs to the vCenter extension {state.managed_by}",
                fix="use that product's own tools",
                error="NotSupported",
            ),
        )
    if state.template:
        return (
            Blocker(
                code="template",
                text=f"{state.ref.name} is a template",
                fix="name a VM, or convert the template in vCenter",
                error="BadRequest",
            ),
        )
    return ()


def unreachable_blockers(state: VmState) -> tuple[Blocker, ...]:
    """A VM that waits for somebody, or that vCenter cannot reach."""
    found = []
    if state.question:
        found.append(
            Blocker(
                code="question",
                text=f"{state.ref.name} waits for an answer: {state.question}",
                fix="answer it in vCenter; the run goes on by itself",
            )
        )
    if state.connection_state != "connected":
        found.append(
            Blocker(
                code="vm-unreachable",
                text=f"{state.ref.name} is {state.connection_state} in vCenter",
                fix="look at its host and datastore",
            )
        )
    return tuple(found)
