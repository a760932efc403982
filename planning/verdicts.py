"""What became of the GPU VMs of lost hosts: one verdict for each, with its evidence.

The first rule that applies counts. A VM counts as recovered only where its devices are proven; what cannot be seen is
said to be unknown.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from contracts.durations import duration_words
from contracts.fleet import FleetHost, FleetVm
from contracts.incidents import IncidentEvent, Meaning
from contracts.verdicts import (
    HeldGpu,
    HostStanding,
    Reason,
    Recovery,
    Victim,
    VmVerdict,
)
from planning.chronicle import told
from planning.holdings import Binding, bindings, differences, gpu_words, held_gpus
from planning.sight import Sight, View
from planning.verdict_reasons import Ruling, ha_off, mmio_shortage, why_off

__all__ = ["Sight", "judge"]

_ORDER = {recovery: position for position, recovery in enumerate(Recovery)}
_PRIORITIES = ("highest", "high", "medium", "low", "lowest", "disabled")


def judge(victims: Sequence[Victim], sight: Sight) -> tuple[VmVerdict, ...]:
    """A verdict for each victim: the worst first, then by restart priority and name."""
    view = View(sight)
    verdicts = [_verdict(victim, view) for victim in victims]
    return tuple(sorted(verdicts, key=_rank))


def _rank(verdict: VmVerdict) -> tuple[int, int, str, str]:
    known = verdict.restart_priority in _PRIORITIES
    priority = _PRIORITIES.index(verdict.restart_priority) if known else len(_PRIORITIES)
    return _ORDER[verdict.recovery], priority, verdict.name, verdict.moid


def _verdict(victim: Victim, view: View) -> VmVerdict:
    vm = view.vm_now(victim)
    ruling = _gone(victim, view) if vm is None else _lost_to_vcenter(vm) or _present(victim, vm, view)
    return VmVerdict(
        moid=victim.vm.moid,
        instance_uuid=victim.vm.instance_uuid,
        name=victim.vm.name,
        was_on=victim.host.name,
        held=victim.held,
        recovery=ruling.recovery,
        reason=ruling.reason,
        text=ruling.text,
        evidence=tuple(dict.fromkeys(ruling.evidence)),
        now_on=ruling.now_on,
        holds=ruling.holds,
        restart_priority=victim.vm.restart_priority,
        lost_at=victim.lost_at,
        recovered_at=ruling.recovered_at,
    )


def _gone(victim: Victim, view: View) -> Ruling:
    """Neither its instance UUID nor its moid is among the VMs with GPU devices."""
    missing = f"no VM with GPU devices has config.instanceUuid {victim.vm.instance_uuid} or is {victim.vm.moid}"
    removed = view.since(victim, None, Meaning.VM_GONE)
    if victim.vm.instance_uuid in view.sight.unregistered:
        path = f" {victim.vm.path}" if victim.vm.path else ""
        text = f"it was to be registered on another host, and is in no inventory: register{path} by hand"
        return Ruling(Recovery.NOT_RESTARTED, Reason.ORPHANED, text, (missing, *map(told, removed[-1:])))
    if removed:
        text = f"it was removed from the inventory at {removed[-1].created:%H:%M:%S} UTC"
        return Ruling(Recovery.RETIRED, Reason.NONE, text, (missing, told(removed[-1])))
    changed = view.since(victim, None, Meaning.VM_CHANGED)
    unread = tuple(line for line in view.sight.fleet.unread if line.startswith(f"{victim.vm.moid} "))
    return Ruling(
        Recovery.UNKNOWN,
        Reason.NOT_KNOWN,
        "it is not among the VMs with GPU devices any more, and no event tells that it was removed",
        (missing, *map(told, changed[-1:]), *unread),
    )


def _lost_to_vcenter(vm: FleetVm) -> Ruling | None:
    seen = (f"runtime.connectionState of {vm.name} ({vm.moid}) is {vm.connection_state}",)
    if vm.connection_state == "orphaned":
        text = "vCenter has it in its inventory, and its host does not know it: it is orphaned"
        return Ruling(Recovery.NOT_RESTARTED, Reason.ORPHANED, text, seen)
    if vm.connection_state in ("inaccessible", "invalid"):
        text = f"vCenter cannot read its files: it is {vm.connection_state}"
        return Ruling(Recovery.NOT_RESTARTED, Reason.INACCESSIBLE, text, seen)
    return None


def _present(victim: Victim, vm: FleetVm, view: View) -> Ruling:
    if not vm.powered_on:
        return why_off(victim, vm, view)
    host = view.host_of(vm)
    if host is None or host.connection_state == "connected":
        return _running(victim, vm, host, view)
    return _unreachable(victim, vm, host, view)


# -- shown as running, on a host that vCenter does not reach ---------------------------------------------------------


def _unreachable(victim: Victim, vm: FleetVm, host: FleetHost, view: View) -> Ruling:
    standing = view.standing(host, victim)
    seen = (f"{host.ref.name}: {standing.evidence}",)
    if off := ha_off(view.cluster_of(victim, vm)):
        text = f"{off}, so nobody restarts it; whether it still runs on {host.ref.name} cannot be seen"
        return Ruling(Recovery.NOT_RESTARTED, Reason.HA_OFF, text, (off, *seen))
    if standing.standing is HostStanding.CUT_OFF:
        text = f"{host.ref.name} runs, cut off from vCenter: whether the VM runs there cannot be seen"
        return Ruling(Recovery.UNKNOWN, Reason.HOST_UNREACHABLE, text, seen)
    stopped = view.since(victim, vm, Meaning.VM_OFF_ON_ISOLATION)
    if standing.standing is HostStanding.ISOLATED and not stopped:
        what = "HA leaves it running" if vm.isolation_response == "none" else "no event tells that HA stopped it"
        text = f"{host.ref.name} is isolated, and {what}: whether it runs cannot be seen"
        response = f"isolation response of {vm.name} is {vm.isolation_response}"
        return Ruling(Recovery.UNKNOWN, Reason.HOST_UNREACHABLE, text, (*seen, response))
    return why_off(victim, vm, view)


# -- running -----------------------------------------------------------------------------------------------------------


def _running(victim: Victim, vm: FleetVm, host: FleetHost | None, view: View) -> Ruling:
    name = host.ref.name if host is not None else vm.host_moid
    if vm.question:
        text = f"it waits on {name} for somebody's answer: {vm.question}"
        return Ruling(Recovery.NOT_RESTARTED, Reason.QUESTION, text, (f"runtime.question.text: {vm.question}",), name)
    came_up = view.came_up(victim, vm)
    if (never := _never_stopped(victim, vm, view, came_up)) is not None:
        text = f"it never stopped, and runs on {name}"
        return Ruling(Recovery.KEPT_RUNNING, Reason.NONE, text, never, name, held_gpus(vm, host))
    booted = vm.boot_time or (came_up.created if came_up is not None else None)
    if victim.vm.tools_running and not vm.tools_running:
        return _without_guest(victim, vm, host, view, booted)
    return _proven(victim, vm, host, came_up, booted)


def _never_stopped(victim: Victim, vm: FleetVm, view: View, came_up: IncidentEvent | None) -> tuple[str, ...] | None:
    """The evidence that it ran on all the time, or None.

    HA may have restarted it elsewhere before vCenter told of the loss; so there only the boot time that it had before
    proves that it is still the same run.
    """
    booted, seen = vm.boot_time, f"runtime.host is {vm.host_moid}, as before"
    if booted is not None and booted == victim.vm.boot_time:
        return (f"runtime.bootTime is still {booted:%Y-%m-%d %H:%M:%S} UTC",)
    if not view.same_host(victim, vm):
        return None
    if booted is not None and booted <= victim.lost_at:
        return (seen, f"runtime.bootTime {booted:%Y-%m-%d %H:%M:%S} UTC is before the loss")
    if booted is None and came_up is None:
        return (seen, "no event tells of a power-on since the loss")
    return None


def _without_guest(victim: Victim, vm: FleetVm, host: FleetHost | None, view: View, booted: datetime | None) -> Ruling:
    """It is on, its guest ran before the loss, and it does not now."""
    limits, at = view.sight.limits, view.sight.at
    since = booted or victim.lost_at
    up_for = at - since
    name = host.ref.name if host is not None else vm.host_moid
    evidence = [f"guest.toolsRunningStatus: not running {duration_words(up_for)} after it was powered on"]
    booting = up_for <= timedelta(seconds=limits.guest_timeout_s)
    if booting and at - victim.lost_at <= timedelta(seconds=limits.settle_s):
        text = f"it was powered on on {name}, and its guest is coming up"
        return Ruling(Recovery.RESTARTING, Reason.NONE, text, tuple(evidence), name, held_gpus(vm, host))
    if not booting and (small := mmio_shortage(vm, victim, host)):
        text = f"it is on, on {name}, and its guest does not boot: {small}"
        evidence.append(f"{small} (config.extraConfig)")
        return Ruling(Recovery.NOT_RESTARTED, Reason.MMIO, text, tuple(evidence), name, held_gpus(vm, host))
    text = f"it is on, on {name}, and its guest does not answer" + (" yet" if booting else "")
    return Ruling(Recovery.UNKNOWN, Reason.NOT_KNOWN, text, tuple(evidence), name, held_gpus(vm, host))


@dataclass(frozen=True)
class _Proof:
    """What a device's card tells: `wrong` is how it is not what the device asks for; `missing` is why nothing tells."""

    seen: str = ""
    wrong: str = ""
    missing: str = ""


def _proven(
    victim: Victim, vm: FleetVm, host: FleetHost | None, came_up: IncidentEvent | None, booted: datetime | None
) -> Ruling:
    name = host.ref.name if host is not None else vm.host_moid
    found = bindings(vm, host)
    proofs = [_proof(vm, each, host) for each in found]
    holds = held_gpus(vm, host)
    start = ((f"runtime.bootTime is {vm.boot_time:%Y-%m-%d %H:%M:%S} UTC",) if vm.boot_time else ()) + (
        (told(came_up),) if came_up is not None else ()
    )
    missing = [proof.missing for proof in proofs if proof.missing]
    if missing or not proofs:
        why = "; ".join(missing) or "it has no GPU device that can be told"
        text = f"it runs on {name}, and whether it has its GPUs is not proven: {why}"
        return Ruling(Recovery.UNKNOWN, Reason.NOT_KNOWN, text, (why, *start), name, holds)
    evidence = (*(proof.seen for proof in proofs), *_compared(victim.held), *start)
    worse = [*(proof.wrong for proof in proofs if proof.wrong), *differences(victim.held, holds)]
    at = max(booted, victim.lost_at) if booted is not None else None
    words = f"it runs on {name} with {', '.join(map(gpu_words, holds))}"
    if worse:
        text = f"{words}, which is not what it had: {'; '.join(worse)}"
        return Ruling(Recovery.OTHER_GPU, Reason.NONE, text, (*evidence, *worse), name, holds, at)
    return Ruling(Recovery.RECOVERED, Reason.NONE, words, evidence, name, holds, at)


def _compared(held: Sequence[HeldGpu]) -> tuple[str, ...]:
    if not any(gpu.vendor_device or gpu.profile for gpu in held):
        return ("what it held before is not known, so nothing was compared",)
    return (f"before: {', '.join(map(gpu_words, held))}",)


def _proof(vm: FleetVm, binding: Binding, host: FleetHost | None) -> _Proof:
    gpu, card = binding.device, binding.card
    if host is None:
        return _Proof(missing=f"{vm.host_moid} is not among the hosts with GPUs")
    if card is None:
        return _Proof(missing=f"nothing on {host.ref.name} names the GPU of device {gpu.key} ({gpu.kind})")
    seen = (
        f"device {gpu.key} ({gpu.kind}) is on {card.sbdf} of {host.ref.name}: {card.vendor_device} ({card.name}), "
        f"label {card.label or 'none'}"
    )
    if gpu.kind == "vgpu":
        offered = any(gpu.profile in each.profiles for each in host.gpus)
        if not offered:
            return _Proof(missing=f"{host.ref.name} does not offer profile {gpu.profile}")
        return _Proof(f"{seen}, profile {gpu.profile} on offer")
    if gpu.kind == "dynamic" and card.vendor_device not in gpu.allowed:
        allowed = ", ".join(gpu.allowed) or "nothing"
        return _Proof(seen, f"{card.vendor_device} at {card.sbdf} is not what its device allows ({allowed})")
    if gpu.kind == "dynamic" and gpu.label and gpu.label != card.label:
        return _Proof(seen, f"{card.sbdf} has the label {card.label or 'none'}, and its device asks for {gpu.label}")
    return _Proof(seen)
