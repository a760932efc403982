"""Why a VM that is off was not restarted: the causes in the order in which they keep HA from it."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.fleet import FleetCluster, FleetHost, FleetVm
from contracts.host import HostRef
from contracts.incidents import INCIDENT_BEGINS, IncidentEvent, Meaning
from contracts.verdicts import (
    HeldGpu,
    HostStanding,
    Reason,
    Recovery,
    Victim,
)
from planning.chronicle import about, host_now, in_order, moids_of, outage_at, outages, told
from planning.gpu_models import pair_words
from planning.holdings import bindings
from planning.mmio import MMIO_SIZE, USE_MMIO, framebuffer_gib, mmio_too_small
from planning.rooms import profile_kind
from planning.sight import View

__all__ = ["Ruling", "ha_off", "mmio_shortage", "why_off"]

_POWER = (Meaning.VM_ON, Meaning.VM_OFF, Meaning.VM_RESTARTED, Meaning.VM_OFF_ON_ISOLATION)
_FAILURES = (Meaning.VM_RESTART_FAILED, Meaning.VM_NO_RESOURCES)
_MOST_HOSTS = 6
"""Hosts whose refusals are told one by one."""


@dataclass(frozen=True)
class Ruling:
    """A verdict without the VM it is about."""

    recovery: Recovery
    reason: Reason
    text: str
    evidence: tuple[str, ...]
    now_on: str = ""
    holds: tuple[HeldGpu, ...] = ()
    recovered_at: datetime | None = None


@dataclass(frozen=True)
class _Case:
    """A VM that is off, and what all rules look at."""

    victim: Victim
    vm: FleetVm
    cluster: FleetCluster | None
    view: View
    seen: tuple[str, ...]
    """That it is off, and how that is known."""
    failures: tuple[IncidentEvent, ...]
    """HA's failed attempts since the loss."""

    def refused(self, reason: Reason, text: str, *evidence: str) -> Ruling:
        return Ruling(Recovery.NOT_RESTARTED, reason, text, (*evidence, *self.seen))


def why_off(victim: Victim, vm: FleetVm, view: View) -> Ruling:
    """What keeps a VM off that ran on a lost host."""
    if (retired := _retired(victim, vm, view)) is not None:
        return retired
    cluster = view.cluster_of(victim, vm)
    failures = tuple(view.since(victim, vm, *_FAILURES))
    case = _Case(victim, vm, cluster, view, _seen(victim, vm, view), failures)
    if cluster is None or ha_off(cluster):
        off = ha_off(cluster)
        return case.refused(Reason.HA_OFF, f"{off}, so nobody restarts it", off)
    return next((found for rule in _RULES if (found := rule(case, cluster)) is not None), None) or _by_room(
        case, cluster
    )


def ha_off(cluster: FleetCluster | None) -> str:
    """Why HA restarts nothing in a cluster, in words; empty where it does."""
    if cluster is None:
        return "its host is in no cluster, and there is no HA"
    if not cluster.ha_enabled:
        return f"HA is off in {cluster.name} (configuration.dasConfig.enabled)"
    if not cluster.ha_host_monitoring:
        return f"HA does not monitor the hosts of {cluster.name} (configuration.dasConfig.hostMonitoring)"
    return ""


def mmio_shortage(vm: FleetVm, victim: Victim, host: FleetHost | None) -> str:
    """Why its 64-bit MMIO space is too small for its GPUs, in words; empty where it is enough, or was not read."""
    if vm.mmio_gib is None:
        return ""
    bound = {each.device.key: each.card for each in bindings(vm, host)} if vm.powered_on else {}
    held = {gpu.vendor_device: gpu.framebuffer_mib for gpu in victim.held if gpu.vendor_device}
    sizes, shares = [], []
    for gpu in vm.gpus:
        card = bound.get(gpu.key)
        if gpu.kind == "vgpu":
            kind = profile_kind(host or FleetHost(ref=victim.host), gpu.profile)
            shares.append(-(-kind.framebuffer_mib // 1024))
        elif card is not None:
            sizes.append(framebuffer_gib(card.vendor_device, card.framebuffer_mib))
        elif gpu.kind in ("dynamic", "static"):
            pairs = gpu.allowed or tuple(held)
            sizes.append(max((framebuffer_gib(pair, held.get(pair, 0)) for pair in pairs), default=0))
    have = {USE_MMIO: "TRUE", MMIO_SIZE: str(vm.mmio_gib)} if vm.mmio_gib else {}
    return mmio_too_small(have, sizes or shares)


def _seen(victim: Victim, vm: FleetVm, view: View) -> tuple[str, ...]:
    """That the VM is off: by its own state, or because HA says that the host is down on which it is shown."""
    host = view.host_of(vm)
    if not vm.powered_on or host is None:
        state = vm.power_state or ("poweredOn" if vm.powered_on else "poweredOff")
        return (f"runtime.powerState of {vm.name} is {state}",)
    standing = view.standing(host, victim)
    return (f"{host.ref.name}, where vCenter last saw it, is {standing.standing}: {standing.evidence}",)


# -- off because somebody wanted it --------------------------------------------------------------------------------


def _retired(victim: Victim, vm: FleetVm, view: View) -> Ruling | None:
    """Somebody stopped it, before its host was lost or after it was back; a suspended VM was suspended by somebody."""
    if vm.power_state == "suspended":
        text = "somebody suspended it"
        return Ruling(Recovery.RETIRED, Reason.NONE, text, (f"runtime.powerState of {vm.name} is suspended",))
    power = [event for event in view.events_of(victim, vm) if event.meaning in _POWER]
    if vm.powered_on or not power or power[-1].meaning is not Meaning.VM_OFF:
        return None
    off, back = power[-1], view.came_up(victim, vm)
    told_by = (told(off), f"runtime.powerState of {vm.name} is {vm.power_state or 'poweredOff'}")
    isolated = view.since(victim, vm, Meaning.VM_OFF_ON_ISOLATION)
    if off.created < victim.lost_at and not isolated:
        return Ruling(Recovery.RETIRED, Reason.NONE, "somebody stopped it before its host was lost", told_by)
    if back is not None and back.created < off.created and not _lost_again(back, off, view):
        return Ruling(Recovery.RETIRED, Reason.NONE, "somebody stopped it after it was back", (*told_by, told(back)))
    if back is None and not isolated and (again := _cut_off_only(victim, vm, off, view)) is not None:
        text = "it ran on while its host was cut off, and somebody stopped it after that"
        return Ruling(Recovery.RETIRED, Reason.NONE, text, (*told_by, told(again)))
    return None


def _lost_again(back: IncidentEvent, off: IncidentEvent, view: View) -> bool:
    """Its next host was lost as well: vCenter tells of a power-off when such a host is back."""
    hosts = {back.host_moid, off.host_moid} - {""}
    losses = [each.created for each in view.sight.events if each.meaning in INCIDENT_BEGINS and each.host_moid in hosts]
    losses += [each.lost_at for each in view.sight.standings.values() if each.host.moid in hosts]
    return any(back.created < at <= off.created for at in losses)


def _cut_off_only(victim: Victim, vm: FleetVm, off: IncidentEvent, view: View) -> IncidentEvent | None:
    """The event of the host's return, where HA watched and told of no failure: its VMs ran on until then."""
    if ha_off(view.cluster_of(victim, vm)):
        return None
    own = about(victim.host, moids_of(victim.host, view.sight.fleet))
    outage = outage_at(victim.lost_at, outages([event for event in in_order(view.sight.events) if own(event)]))
    back = outage.back
    return back if outage.by_ha is None and back is not None and back.created < off.created else None


# -- what keeps HA from it, whatever room there is -----------------------------------------------------------------


def _static(case: _Case, cluster: FleetCluster) -> Ruling | None:
    addresses = [gpu.sbdf for gpu in case.vm.gpus if gpu.kind == "static"]
    if not addresses:
        return None
    where = case.victim.host.name
    now = host_now(case.victim.host, case.view.sight.fleet)
    back = now is not None and case.view.standing(now, case.victim).standing is HostStanding.BACK
    return case.refused(
        Reason.STATIC_PINNED,
        f"static DirectPath I/O binds it to {', '.join(addresses)} of {where}, and HA leaves such VMs off"
        + (f"; {where} is back" if back else ""),
        f"VirtualPCIPassthrough.DeviceBackingInfo.id of {case.vm.name}: {', '.join(addresses)}",
    )


def _unprotected(case: _Case, cluster: FleetCluster) -> Ruling | None:
    """HA tries nobody whom it does not protect: where it tried, it did."""
    if case.failures:
        return None
    was, now = case.victim.vm, case.vm
    for vm, when in ((was, "before the loss"), (now, "now")):
        if vm.restart_priority == "disabled":
            text = f"HA's restarts are disabled for it in {cluster.name}"
            return case.refused(Reason.UNPROTECTED, text, f"restartPriority of {vm.name} is disabled ({when})")
    if was.ha_protected or now.ha_protected or (was.ha_protected is None and now.ha_protected is None):
        return None
    return case.refused(
        Reason.UNPROTECTED,
        "HA did not protect it",
        f"runtime.dasVmProtection.dasProtected of {was.name} is false "
        f"({'before the loss' if was.ha_protected is False else 'now'})",
    )


def _recommended(case: _Case, cluster: FleetCluster) -> Ruling | None:
    found = next((each for each in cluster.recommendations if each.vm_moid == case.vm.moid), None)
    if found is None:
        return None
    hosts = {host.ref.moid: host.ref.name for host in case.view.sight.fleet.hosts}
    where = hosts.get(found.host_moid, found.host_moid)
    text = f"DRS recommends to power it on on {where}, and waits for somebody to apply that"
    said = f"recommendation {found.key} of {cluster.name}" + (f": {found.reason}" if found.reason else "")
    return case.refused(Reason.RECOMMENDATION, text, said)


def _question(case: _Case, cluster: FleetCluster) -> Ruling | None:
    if not case.vm.question:
        return None
    text = f"it waits for somebody's answer: {case.vm.question}"
    return case.refused(Reason.QUESTION, text, f"runtime.question.text: {case.vm.question}")


def _unreserved(case: _Case, cluster: FleetCluster) -> Ruling | None:
    if case.vm.memory_reserved:
        return None
    return case.refused(
        Reason.RESERVATION,
        "not all of its memory is reserved, so it does not power on with GPUs",
        f"config.memoryReservationLockedToMax and the reservation of {case.vm.name} do not cover its "
        f"{case.vm.memory_mib} MiB",
        *map(told, case.failures[-1:]),
    )


def _too_little_mmio(case: _Case, cluster: FleetCluster) -> Ruling | None:
    named = [event for event in case.failures if "devicepoweron" in f"{event.reason} {event.message}".casefold()]
    small = mmio_shortage(case.vm, case.victim, case.view.host_of(case.vm)) if named else ""
    if not small:
        return None
    text = f"its 64-bit MMIO space is too small, so it does not power on: {small}"
    return case.refused(Reason.MMIO, text, told(named[-1]), f"{small} (config.extraConfig)")


_RULES: tuple[Callable[[_Case, FleetCluster], Ruling | None], ...] = (
    _static,
    _unprotected,
    _recommended,
    _question,
    _unreserved,
    _too_little_mmio,
)


# -- room ----------------------------------------------------------------------------------------------------------


def _by_room(case: _Case, cluster: FleetCluster) -> Ruling:
    """What the hosts that are left have for it: GPUs, permission, memory."""
    vm = case.vm
    failed = tuple(map(told, case.failures[-1:]))
    refusals = case.view.refusals(cluster, vm, 0)
    with_gpus = [host for host, why in refusals.items() if not why]
    if not with_gpus:
        return _no_gpu(case, cluster, refusals, failed)
    names = _names(with_gpus)
    allowed = [host for host in with_gpus if host.moid not in vm.barred]
    if not allowed:
        text = f"GPUs for it are free on {names}, and mandatory VM-host rules keep it off there"
        return case.refused(Reason.RULE, text, f"mandatory VM-host rules of {cluster.name} bar it: {names}", *failed)
    refused = case.view.refusals(cluster, vm, vm.memory_mib)
    free = [host for host in allowed if not refused[host]]
    if not free:
        text = f"GPUs for it are free on {_names(allowed)}, and not enough memory beside them"
        return case.refused(Reason.ADMISSION, text, *_told_by({host: refused[host] for host in allowed}), *failed)
    return _with_room(case, free, failed)


def _names(hosts: Iterable[HostRef]) -> str:
    names = sorted(host.name for host in hosts)
    more = len(names) - _MOST_HOSTS
    return ", ".join(names[:_MOST_HOSTS]) + (f" and {more} more" if more > 0 else "")


def _told_by(refusals: Mapping[HostRef, str]) -> list[str]:
    """What hosts have against it, each with its name, as far as people read."""
    return sorted(f"{host.name}: {why}" for host, why in refusals.items())[:_MOST_HOSTS]


def _no_gpu(case: _Case, cluster: FleetCluster, refusals: Mapping[HostRef, str], failed: tuple[str, ...]) -> Ruling:
    shares = [gpu.profile for gpu in case.vm.gpus if gpu.kind == "vgpu"]
    whole = [
        f"{pair_words(gpu.allowed)}{f' label {gpu.label}' if gpu.label else ''}"
        for gpu in case.vm.gpus
        if gpu.kind == "dynamic"
    ]
    left = (
        f"the {len(refusals)} hosts of {cluster.name} that are left" if refusals else f"{cluster.name}: no host is left"
    )
    said = _told_by(refusals) or [left]
    if whole or not shares:
        text = f"no free GPU for it ({', '.join(whole) or 'its device'}) on {left}"
        return case.refused(Reason.NO_FREE_GPU, text, *said, *failed)
    return case.refused(Reason.NO_PROFILE_ROOM, f"no room for {', '.join(shares)} on {left}", *said, *failed)


def _with_room(case: _Case, hosts: Sequence[HostRef], failed: tuple[str, ...]) -> Ruling:
    where = _names(hosts)
    room = f"room for it now: {where}"
    sight = case.view.sight
    if not failed and sight.at - case.victim.lost_at < timedelta(seconds=sight.limits.settle_s):
        text = f"HA can restart it: there is room on {where}"
        return Ruling(Recovery.RESTARTING, Reason.NONE, text, (room, *case.seen))
    stopped = case.view.since(case.victim, case.vm, Meaning.VM_OFF_ON_ISOLATION)
    if stopped:
        text = f"HA stopped it on isolated {case.victim.host.name} and did not restart it; there is room on {where}"
        return case.refused(Reason.ISOLATION, text, told(stopped[-1]), room, *failed)
    tries = len([event for event in case.failures if event.meaning is Meaning.VM_RESTART_FAILED]) or len(case.failures)
    why = (
        f"HA could not restart it in {tries} attempt{'s' * (tries > 1)}"
        if tries
        else "nothing tells why it was not restarted"
    )
    text = f"{why}; there is room for it now on {where}"
    return case.refused(Reason.NOT_KNOWN, text, room, *failed)
