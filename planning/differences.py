"""What a look at a whole fleet finds that is not as expected, and which rule acts on it.

Findings are judged on what vCenter shows of connected hosts; of others it shows what was, which tells nothing.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence

from contracts.fleet import FleetCluster, FleetHost, FleetVm, GpuFleet, VmGpu
from contracts.profiles import Profile
from contracts.reconcile import ANSWERS, Finding, FindingKind, LivePreparation
from contracts.rules import Rule

__all__ = ["acts", "counts", "differences", "known_labels", "lasting"]


def known_labels(profiles: Iterable[Profile]) -> frozenset[str]:
    """The hardware labels that some profile sets."""
    return frozenset(gpu.label for profile in profiles for gpu in profile.gpus if gpu.label)


def differences(
    fleet: GpuFleet, prepared: Collection[str], live: Iterable[LivePreparation], labels: Collection[str]
) -> tuple[Finding, ...]:
    """What is not as expected: kind by kind, then by cluster, host and VM.

    `prepared` are keys of hosts that were brought to a profile, `live` the preparations that run, `labels` those that
    profiles set.
    """
    clusters = {each.moid: each for each in fleet.clusters}
    by_moid = {each.ref.moid: each for each in fleet.hosts}
    at_work = {each.host_key: each.asks for each in live}
    found: list[Finding] = []
    for host in fleet.hosts:
        cluster = clusters.get(host.cluster_moid)
        if host.connection_state != "connected":
            # One that only asks for approval does not touch its host.
            if not host.in_maintenance and not host.standby and at_work.get(host.ref.key, True):
                found.append(_host_down(host, cluster))
            continue
        if host.ref.key not in prepared and host.ref.key not in at_work:
            found.append(_never_prepared(host, cluster))
        found += _unknown_labels(host, cluster, labels)
    for vm in fleet.vms:
        on = by_moid.get(vm.host_moid)
        runs = vm.powered_on and not vm.template and vm.connection_state == "connected"
        if runs and on is not None and on.connection_state == "connected":
            cluster = clusters.get(on.cluster_moid)
            found += _unexpected_gpus(vm, on, cluster)
            if cluster is not None and cluster.ha_enabled and (why := _not_saved(vm, cluster)):
                found.append(_finding(FindingKind.VM_NOT_SAVED_BY_HA, on, cluster, why[0], why[1], vm))
    order = list(FindingKind)
    return tuple(
        sorted(
            found,
            key=lambda each: (
                order.index(each.kind),
                each.cluster_name,
                each.host.name if each.host else "",
                each.vm_name,
                each.key,
            ),
        )
    )


def acts(findings: Iterable[Finding], rules: Sequence[Rule], vcenter: str) -> tuple[Finding, ...]:
    """The findings, each with the first rule of the file that acts on it, if one does.

    A rule does whose `on` names the finding's kind (letter case does not matter), whose `where` fits, and which starts
    what answers such a finding.
    """
    return tuple(_with_rule(each, rules, vcenter) for each in findings)


def lasting(acted: Iterable[str], fleet: GpuFleet, prepared: Collection[str]) -> tuple[str, ...]:
    """Those of the keys of findings that were acted on whose cause is still there.

    Also where it is no finding just now: a host that a preparation works on, or that is away for a moment, was still
    never prepared, and who declined that is not asked again when it is back.
    """
    there = set()
    for host in fleet.hosts:
        if host.ref.key not in prepared:
            there.add(_never_prepared(host, None).key)
        if host.connection_state != "connected":
            there.add(_host_down(host, None).key)
    return tuple(key for key in acted if key in there)


def counts(findings: Iterable[Finding]) -> dict[str, int]:
    """How many there are of each kind, by its name."""
    return dict(Counter(each.kind.value for each in findings))


def _with_rule(finding: Finding, rules: Sequence[Rule], vcenter: str) -> Finding:
    host = finding.host.name if finding.host else ""
    for rule in rules:
        named = any(name.casefold() == finding.kind.casefold() for name in rule.on)
        if (
            named
            and rule.start == ANSWERS.get(finding.kind)
            and rule.where.fits(vcenter=vcenter, cluster=finding.cluster_name, host=host)
        ):
            return finding.model_copy(update={"rule": rule.name, "profile": rule.with_.profile or ""})
    return finding


def _finding(
    kind: FindingKind, host: FleetHost, cluster: FleetCluster | None, text: str, fix: str, vm: FleetVm | None = None
) -> Finding:
    return Finding(
        kind=kind,
        cluster_moid=host.cluster_moid,
        cluster_name=cluster.name if cluster else "",
        host=host.ref,
        vm_moid=vm.moid if vm else "",
        vm_name=vm.name if vm else "",
        text=text,
        fix=fix,
    )


def _host_down(host: FleetHost, cluster: FleetCluster | None) -> Finding:
    evidence = {
        "runtime.connectionState": host.connection_state,
        "runtime.powerState": host.power_state,
        "runtime.dasHostState": host.ha_state,
    }
    said = ", ".join(f"{path} {value}" for path, value in evidence.items() if value)
    return _finding(
        FindingKind.HOST_DOWN,
        host,
        cluster,
        f"nobody took it down: {said}; it is in neither maintenance mode nor standby, and no preparation works on it",
        "bring it back, or put it into maintenance mode if it is meant to be down; a rule on gpuwright.HostDown that "
        "starts HaRecoveryAudit has its GPU VMs accounted for (gpuwright audit list)",
    )


def _never_prepared(host: FleetHost, cluster: FleetCluster | None) -> Finding:
    kinds = Counter(gpu.name or gpu.vendor_device for gpu in host.gpus)
    cards = ", ".join(f"{count} x {name}" for name, count in sorted(kinds.items()))
    return _finding(
        FindingKind.HOST_NEVER_PREPARED,
        host,
        cluster,
        f"no run of gpuwright brought it to a profile, and none works on it; its GPUs: {cards}",
        f"gpuwright prepare {host.ref.name} --profile NAME, or a rule on {FindingKind.HOST_NEVER_PREPARED} that starts "
        "PrepareGpuHost",
    )


def _unknown_labels(host: FleetHost, cluster: FleetCluster | None, known: Collection[str]) -> Iterator[Finding]:
    labelled: dict[str, list[str]] = {}
    for gpu in host.gpus:
        if gpu.label and gpu.label not in known:
            labelled.setdefault(gpu.label, []).append(gpu.sbdf)
    profiles = ", ".join(sorted(known)) or "none"
    for label, sbdfs in sorted(labelled.items()):
        yield _finding(
            FindingKind.UNKNOWN_LABEL,
            host,
            cluster,
            f"hardware label {label!r} on {', '.join(sorted(sbdfs))}; the profiles set: {profiles}",
            f"correct the label, or set it in a profile of the rules file (gpus: [{{label: {label}}}])",
        )


def _unexpected_gpus(vm: FleetVm, host: FleetHost, cluster: FleetCluster | None) -> Iterator[Finding]:
    for device in vm.gpus:
        if why := _unexpected(device, host):
            yield _finding(
                FindingKind.VM_ON_UNEXPECTED_GPU,
                host,
                cluster,
                f"device {device.key}: {why}",
                "power the VM off and on where a GPU is free that fits, or correct its device: gpuwright vm change "
                f"{vm.name}",
                vm,
            )


def _unexpected(device: VmGpu, host: FleetHost) -> str:
    """What is unexpected about the GPU that a running VM's device holds; empty where nothing is, or nothing tells."""
    if device.kind == "vgpu":
        return _not_offered(device.profile, host)
    gpu = next((each for each in host.gpus if each.sbdf == device.assigned), None)
    if device.kind != "dynamic" or gpu is None:
        return ""
    if device.allowed and gpu.vendor_device not in device.allowed:
        return (
            f"it allows {', '.join(device.allowed)} and holds {gpu.sbdf} (assignedId), which is a {gpu.vendor_device} "
            f"({gpu.name})"
        )
    if device.label and gpu.label != device.label:
        has = f"has the label {gpu.label!r}" if gpu.label else "has no label"
        return f"it asks for the label {device.label!r} and holds {gpu.sbdf} (assignedId), which {has}"
    return ""


def _not_offered(profile: str, host: FleetHost) -> str:
    shared = [gpu for gpu in host.gpus if gpu.active_type == "sharedDirect"]
    if not shared:
        how = ", ".join(f"{gpu.sbdf} {gpu.active_type or 'unknown'}" for gpu in host.gpus)
        return f"it runs with vGPU profile {profile}, and no GPU of the host is in vGPU mode: {how}"
    # Whose cards are of several kinds, a host tells only what all of them know together.
    told = all(gpu.profiles for gpu in shared)
    offered = {name for gpu in shared for name in gpu.profiles} if told else {kind.name for kind in host.vgpu_kinds}
    if offered and profile not in offered:
        return f"it runs with vGPU profile {profile}, and the host offers only {', '.join(sorted(offered))}"
    return ""


def _not_saved(vm: FleetVm, cluster: FleetCluster) -> tuple[str, str] | None:
    """Why HA would leave the VM off if its host failed, and what mends that; None where nothing stands in the way."""
    if static := [gpu.sbdf for gpu in vm.gpus if gpu.kind == "static"]:
        return (
            f"static DirectPath I/O binds it to {', '.join(sorted(static))} of this host, so HA never restarts it",
            "give it a Dynamic DirectPath I/O device of the same kind and label instead: "
            f"gpuwright vm change {vm.name}",
        )
    if not cluster.ha_host_monitoring:
        return (
            "HA's host monitoring is off in its cluster, so HA restarts nothing",
            "switch Host Monitoring on in the cluster's vSphere Availability settings",
        )
    if vm.restart_priority == "disabled":
        return (
            "its HA restart priority is disabled",
            "set VM restart priority in the cluster's VM Overrides or vSphere Availability settings",
        )
    if vm.ha_protected is False:
        return (
            "HA does not protect it (runtime.dasVmProtection.dasProtected is false)",
            "see the cluster's vSphere Availability issues; HA protects a VM once its primary host knows that it runs",
        )
    return None
