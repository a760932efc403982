"""What the failure of one host would do to its GPU VMs: who comes back where, who does not and why, what is missing.

HA restarts by priority, and DRS finds a matching device; admission control knows nothing of GPUs (domain facts: vSphere
Availability guide, "vSphere HA" and "Admission control"; Dynamic DirectPath I/O is placed at power-on). A forecast
tries each VM in the order of restarts on the host with most free memory. HA and DRS have the last word, and VMs without
GPUs, which take memory too, are not looked at.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence

from contracts.errors import BadRequest
from contracts.fleet import FleetCluster, FleetHost, FleetVm, GpuFleet, VmGpu
from contracts.forecast import ForecastVm, GpuShortage, HostForecast
from contracts.verdicts import Reason
from planning.remedy_rooms import by_priority
from planning.rooms import Refusal
from planning.spare import Spare, Trial, device_name

__all__ = ["forecast", "forecasts", "summary"]

_NAMED = 3
"""So many hosts are named in a reason; of more, how many there are."""
_SAID = {
    "in-use": "have them in use",
    "no-such-gpu": "have no such GPU",
    "label-differs": "have none with that label",
    "wrong-mode": "have none in that mode",
    "too-few": "have too few left",
    "profile-not-offered": "do not offer that profile",
    "mig-slices": "have too few MIG slices left",
    "mixed-size": "run vGPUs of another size",
    "not-whole-card": "have no whole card left",
    "maintenance": "are in maintenance mode",
    "standby": "are in standby",
    "not-connected": "are not connected",
    "down": "are down",
    "isolated": "are cut off, as HA says",
}
"""What a host refuses by (`planning.rooms`), of several hosts."""


def forecast(fleet: GpuFleet, cluster_moid: str, host_key: str, *, down: Collection[str] = ()) -> HostForecast:
    """What the failure of one host would do now; `down` are keys of hosts that count as gone already.

    `cluster_moid` is empty for a host in no cluster. Raises `BadRequest` when the cluster has no GPU host of that key.
    """
    spare = Spare(fleet, cluster_moid, down)
    host = next((host for host in spare.hosts.values() if host.ref.key == host_key), None)
    if host is None:
        raise BadRequest(f"no host with GPUs has the key {host_key!r} in {cluster_moid or 'no cluster'}")
    return _forecast(spare, fleet.cluster(cluster_moid), host)


def forecasts(fleet: GpuFleet, cluster_moid: str, *, down: Collection[str] = ()) -> tuple[HostForecast, ...]:
    """What the failure of each host that is left would do, of those with running GPU VMs; the worst first.

    A host is left when vCenter reaches it and it is not in `down` (keys) and not in standby.
    """
    spare, cluster = Spare(fleet, cluster_moid, down), fleet.cluster(cluster_moid)
    left = (
        host
        for host in spare.hosts.values()
        if host.connection_state == "connected" and not host.standby and host.ref.key not in down
    )
    found = [_forecast(spare, cluster, host) for host in left if spare.running_on(host.ref.moid)]
    return tuple(sorted(found, key=lambda each: (-each.lost, -_missing(each), each.host.name)))


def summary(forecasts: Sequence[HostForecast]) -> str:
    """Forecasts of the hosts of one cluster, the worst first, in a line."""
    if not forecasts:
        return "no host that is left has running GPU VMs"
    worst, many = forecasts[0], len(forecasts)
    if not worst.lost:
        which = worst.host.name if many == 1 else f"any one of {many} hosts"
        return f"if {which} fails, all of its GPU VMs come back"
    line = f"if {worst.host.name} fails, {worst.lost} of its {len(worst.vms)} GPU VMs would not come back"
    if short := [each for each in worst.shortages if each.missing]:
        line += "; missing: " + ", ".join(f"{each.missing} × {each.kind}" for each in short)
    if many > 1:
        line += f"; {sum(each.lost > 0 for each in forecasts)} of {many} hosts would leave some off"
    return line


def _missing(found: HostForecast) -> int:
    return sum(each.missing for each in found.shortages)


def _forecast(spare: Spare, cluster: FleetCluster | None, host: FleetHost) -> HostForecast:
    trial = Trial(spare, host.ref.moid)
    vms: list[ForecastVm] = []
    tried: list[FleetVm] = []
    lacking: list[FleetVm] = []
    for vm in sorted(spare.running_on(host.ref.moid), key=lambda vm: by_priority(vm.restart_priority, vm.moid)):
        if never := _never(vm, host, cluster):
            vms.append(_lost(vm, *never))
            continue
        tried.append(vm)
        found = _placed(trial, vm, cluster)
        if found.reason in (Reason.NO_FREE_GPU, Reason.NO_PROFILE_ROOM):
            lacking.append(vm)
        vms.append(found)
    return HostForecast(
        host=host.ref,
        vms=tuple(sorted(vms, key=lambda vm: vm.comes_back)),
        shortages=_shortages(trial, tried, lacking),
    )


def _never(vm: FleetVm, host: FleetHost, cluster: FleetCluster | None) -> tuple[Reason, str] | None:
    """Why HA would not restart a VM whatever room there is."""
    if cluster is None:
        return Reason.HA_OFF, f"{host.ref.name} is in no cluster: nothing restarts its VMs elsewhere"
    if not cluster.ha_enabled:
        return Reason.HA_OFF, f"vSphere HA is off in cluster {cluster.name}"
    if not cluster.ha_host_monitoring:
        return Reason.HA_OFF, f"HA's host monitoring is off in cluster {cluster.name}"
    if pinned := [gpu.sbdf for gpu in vm.gpus if gpu.kind == "static"]:
        return Reason.STATIC_PINNED, f"static DirectPath I/O binds it to {', '.join(pinned)} of {host.ref.name}"
    if vm.restart_priority == "disabled":
        return Reason.UNPROTECTED, "its restart priority is disabled"
    if vm.ha_protected is False:
        return Reason.UNPROTECTED, "HA does not protect it (runtime.dasVmProtection)"
    if not vm.memory_reserved:
        return Reason.RESERVATION, f"its {vm.memory_mib} MiB of memory are not reserved in full"
    return None


def _placed(trial: Trial, vm: FleetVm, cluster: FleetCluster | None) -> ForecastVm:
    """Take room for a VM on the host with most free memory, or say why there is none."""
    wanted = _movable(vm)
    refusals = {moid: trial.refusals(moid, wanted, vm) for moid in trial.others}
    able = [moid for moid, why in refusals.items() if not why]
    if not able:
        vgpu = any(gpu.kind == "vgpu" for gpu in wanted)
        reason = Reason.NO_PROFILE_ROOM if vgpu else Reason.NO_FREE_GPU
        return _lost(vm, reason, _nowhere(trial, wanted, {moid: why[0] for moid, why in refusals.items()}))
    allowed = [moid for moid in able if moid not in vm.barred]
    if not allowed:
        return _lost(vm, Reason.RULE, f"mandatory VM-host rules keep it off {_names(trial, able)}, where its GPUs are")
    roomy = [moid for moid in allowed if trial.memory_mib(moid) >= vm.memory_mib]
    if not roomy:
        most = max(allowed, key=trial.memory_mib)
        return _lost(
            vm,
            Reason.ADMISSION,
            f"it reserves {vm.memory_mib} MiB of memory, and of the hosts where its GPUs are {_name(trial, most)} has "
            f"most left: {trial.memory_mib(most)} MiB",
        )
    # Of equals the first in the inventory, as `max` takes it.
    chosen = max(roomy, key=trial.memory_mib)
    trial.take(chosen, wanted, vm, vm.memory_mib)
    if cluster is not None and cluster.drs_enabled and (vm.drs_automation or cluster.drs_automation) == "manual":
        where = f"in cluster {cluster.name}" if cluster.drs_automation == "manual" else "for this VM"
        text = f"DRS is manual {where}: it would recommend a host such as {_name(trial, chosen)}"
        return _lost(vm, Reason.RECOMMENDATION, text + ", and wait")
    return ForecastVm(
        moid=vm.moid,
        name=vm.name,
        restart_priority=vm.restart_priority,
        comes_back=True,
        host=_name(trial, chosen),
        text=f"{_name(trial, chosen)} has room for it",
    )


def _movable(vm: FleetVm) -> tuple[VmGpu, ...]:
    """The devices that vSphere looks for; those of other kinds are nothing that gpuwright knows."""
    return tuple(gpu for gpu in vm.gpus if gpu.kind in ("dynamic", "vgpu"))


def _lost(vm: FleetVm, reason: Reason, text: str) -> ForecastVm:
    return ForecastVm(
        moid=vm.moid, name=vm.name, restart_priority=vm.restart_priority, comes_back=False, reason=reason, text=text
    )


def _nowhere(trial: Trial, wanted: Sequence[VmGpu], why: Mapping[str, Refusal]) -> str:
    """What is asked for, and why no other host has it: each host's words, or of many how many say what."""
    asked = Counter(device_name(gpu) for gpu in wanted)
    text = "asks for " + ", ".join(f"{count} × {kind}" if count > 1 else kind for kind, count in asked.items())
    if not why:
        return f"{text}, and the cluster has no other host with GPUs"
    if len(why) <= _NAMED:
        return f"{text}: " + "; ".join(f"{_name(trial, moid)}: {each.text}" for moid, each in why.items())
    codes = Counter(each.code for each in why.values())
    return f"{text}: of {len(why)} other hosts " + ", ".join(
        f"{count} {_SAID.get(code, code)}" for code, count in codes.most_common()
    )


def _name(trial: Trial, moid: str) -> str:
    return trial.others[moid].ref.name


def _names(trial: Trial, moids: Sequence[str]) -> str:
    more = f" and {len(moids) - _NAMED} more" if len(moids) > _NAMED else ""
    return ", ".join(_name(trial, moid) for moid in moids[:_NAMED]) + more


def _shortages(trial: Trial, tried: Sequence[FleetVm], lacking: Sequence[FleetVm]) -> tuple[GpuShortage, ...]:
    """GPUs by kind: what the VMs that HA would restart ask for, and what of it is nowhere free."""
    needed = Counter(device_name(gpu) for vm in tried for gpu in _movable(vm))
    missing: Counter[str] = Counter()
    for vm in lacking:
        # What it could have is kept for it, so that the next one does not count it too.
        wanted = _movable(vm)
        moid, has = _most(trial, vm, wanted)
        if has:
            trial.take(moid, [wanted[index] for index in has], vm, 0)
        missing.update(device_name(gpu) for index, gpu in enumerate(wanted) if index not in has)
    found = (GpuShortage(kind=kind, needed=count, missing=missing[kind]) for kind, count in needed.items())
    return tuple(sorted(found, key=lambda each: (-each.missing, each.kind)))


def _most(trial: Trial, vm: FleetVm, wanted: Sequence[VmGpu]) -> tuple[str, list[int]]:
    """The host that has most of a VM's devices, though not all of them, and which these are."""
    best, most = "", list[int]()
    for moid in trial.others if len(wanted) > 1 else ():
        has: list[int] = []
        for index in range(len(wanted)):
            if moid not in vm.barred and not trial.refusals(moid, [wanted[each] for each in [*has, index]], vm):
                has.append(index)
        if len(has) > len(most):
            best, most = moid, has
    return best, most
