"""Random clusters, failures and what people do meanwhile, for the model of HA and the simulator."""

import random
from dataclasses import replace

from tests.support.ha_model import Model
from tests.support.ha_spec import (
    FRAMEBUFFER_GIB,
    PRIORITIES,
    SLOTS,
    Case,
    Cluster,
    Device,
    Gpu,
    Host,
    Rule,
    Vm,
    mmio_needed_gib,
    profiles,
)

__all__ = ["random_case"]

_FAILURES = ("power", "power", "power", "isolation", "isolation", "cut-off", "two")


def random_case(rng: random.Random, name: str) -> Case:
    """2-6 hosts with up to 4 GPUs, 1-8 GPU VMs on the hosts that fail, and others."""
    while True:
        hosts = _hosts(rng, name)
        kind = rng.choice(_FAILURES)
        with_gpus = [host.name for host in hosts if host.gpus and not host.maintenance]
        if len(with_gpus) < (2 if kind == "two" else 1):
            continue
        lost = rng.sample(with_gpus, 2 if kind == "two" else 1)
        failures = tuple((rng.choice(("power", "power", "isolation")) if kind == "two" else kind, host)
                         for host in lost)  # fmt: skip
        cluster = _cluster(rng, name, hosts)
        cluster = _with_vms(rng, cluster, lost)
        if not any(vm.gpus and vm.host in lost for vm in cluster.vms):
            continue
        cluster = _with_rules(rng, cluster)
        early = tuple(host for what, host in failures if what == "power") if rng.random() < 0.12 else ()
        before = [vm.name for vm in cluster.vms if vm.gpus and vm.host in lost and rng.random() < 0.03]
        case = Case(cluster, failures, tuple(before), early[:1])
        return replace(case, after=_after(rng, case))


def _hosts(rng: random.Random, name: str) -> tuple[Host, ...]:
    models = rng.sample(sorted(FRAMEBUFFER_GIB), rng.choice((1, 1, 2)))
    style = rng.choice(("passthrough", "passthrough", "passthrough", "vgpu", "mig", "mixed"))
    labels = rng.choice(
        (("",), ("", "Training"), ("Training",), ("Training", "Inference"), ("", "Training", "Inference"))
    )
    return tuple(
        _telling(
            Host(
                f"{name}-esx-{number}",
                memory_gib=rng.choice((96, 128, 192, 512, 1024)),
                gpus=tuple(
                    _gpu(rng, address, models, style, labels) for address in SLOTS[: rng.choice((0, 1, 2, 2, 3, 4))]
                ),
                policy=rng.choice(("performance", "consolidation")),
                names_small_mmio=rng.random() < 0.3,
                maintenance=rng.random() < 0.06,
                version=rng.choice(("8.0.2", "8.0.3")),
            )
        )
        for number in range(rng.choice((2, 2, 3, 3, 4, 5, 6)))
    )


def _telling(host: Host) -> Host:
    """Which of two cards of a model is in MIG mode cannot be seen before 8.0.3."""
    modes = {(gpu.model, gpu.mode) for gpu in host.gpus}
    differ = any((model, "vgpu") in modes and (model, "mig") in modes for model in FRAMEBUFFER_GIB)
    return replace(host, version="8.0.3") if differ else host


def _gpu(rng: random.Random, address: str, models: list[str], style: str, labels: tuple[str, ...]) -> Gpu:
    model = rng.choice(models)
    mode = rng.choice(("passthrough", "vgpu", "mig")) if style == "mixed" else style
    if rng.random() < 0.04:
        mode = "default"
    if mode in ("vgpu", "mig") and not profiles(Gpu(address, model, mode)):
        mode = "passthrough"
    return Gpu(address, model, mode, rng.choice(labels) if mode == "passthrough" else "")


def _cluster(rng: random.Random, name: str, hosts: tuple[Host, ...]) -> Cluster:
    return Cluster(
        name,
        hosts,
        (),
        ha=rng.random() > 0.05,
        host_monitoring=rng.random() > 0.04,
        new_events=rng.random() < 0.4,
        drs=rng.choice((None, "manual", *["partiallyAutomated"] * 3, *["fullyAutomated"] * 6)),
        restart_priority=rng.choice(("medium", "medium", "medium", "high", "low", "disabled")),
        isolation_response=rng.choice(("none", "powerOff", "powerOff", "shutdown")),
    )


def _with_vms(rng: random.Random, cluster: Cluster, lost: list[str]) -> Cluster:
    """VMs that fit where they run, in a random order."""
    hosts = [*lost, *(host.name for host in cluster.hosts if host.name not in lost and not host.maintenance)]
    rng.shuffle(hosts)
    for host in hosts:
        gpu_vms = rng.randint(1, 8) if host in lost else rng.choice((0, 0, 1, 2, 4))
        kinds = [True] * gpu_vms + [False] * rng.choice((0, 0, 0, 1))
        rng.shuffle(kinds)
        for with_gpus in kinds:
            vm = _vm(rng, cluster, host, f"{cluster.name}-vm-{len(cluster.vms)}", with_gpus, host in lost)
            found = replace(cluster, vms=(*cluster.vms, vm)) if vm is not None else cluster
            if found is not cluster and _fits(found):
                cluster = found
    return cluster


def _fits(cluster: Cluster) -> bool:
    try:
        model = Model(Case(cluster, ()))
    except ValueError:
        return False
    return all(model.free_gib(host) >= 0 for host in cluster.hosts)


def _vm(rng: random.Random, cluster: Cluster, host: str, name: str, with_gpus: bool, lost: bool) -> Vm | None:
    cards = next(each for each in cluster.hosts if each.name == host).gpus
    devices: tuple[Device, ...] = ()
    if with_gpus:
        usable = [card for card in cards if card.mode != "default"]
        if not usable:
            return None
        devices = _devices(rng, rng.choice(usable))
    needed = mmio_needed_gib([FRAMEBUFFER_GIB[card.model] for card in cards[:1]] * max(1, len(devices)))
    return Vm(
        name,
        host,
        devices,
        memory_gib=rng.choice((8, 16, 32, 64, 96)),
        mmio_gib=rng.choice((needed, 0, 32)) if rng.random() < 0.3 else 1024,
        reserved=not (with_gpus and lost and rng.random() < 0.05),
        protected=rng.random() > 0.05,
        restart_priority=rng.choice(PRIORITIES) if rng.random() < 0.35 else None,
        isolation_response=rng.choice(("none", "powerOff", "shutdown")) if rng.random() < 0.25 else None,
        drs_override=rng.choice(("manual", "fullyAutomated", "partiallyAutomated", "disabled"))
        if rng.random() < 0.1
        else None,
        no_tools=with_gpus and rng.random() < 0.05,
        question="msg.uuid.altered: was it moved or copied?" if with_gpus and rng.random() < 0.04 else "",
    )


def _devices(rng: random.Random, card: Gpu) -> tuple[Device, ...]:
    count = rng.choice((1, 1, 1, 1, 2))
    if card.mode != "passthrough":
        profile = rng.choice(sorted(profiles(card)))
        gib, slices = profiles(card)[profile]
        return (Device("vgpu", profile=profile),) * (count if not slices and gib == FRAMEBUFFER_GIB[card.model] else 1)
    if rng.random() < 0.15:
        return (Device("static", address=card.address),)
    others = rng.sample(sorted(FRAMEBUFFER_GIB), rng.choice((0, 0, 1, 4)))
    allowed = tuple(dict.fromkeys((card.model, *others)))
    return (Device("dynamic", allowed=allowed, label=rng.choice((card.label, card.label, ""))),) * count


def _with_rules(rng: random.Random, cluster: Cluster) -> Cluster:
    """Rules that the VMs keep as they run now."""
    vms = [vm for vm in cluster.vms if vm.gpus]
    rules: list[Rule] = []
    while rng.random() < 0.25:
        vm = rng.choice(vms)
        names = [host.name for host in cluster.hosts if host.name != vm.host]
        hosts = rng.sample(names, rng.randint(1, len(names)))
        together = tuple(each.name for each in vms if each.host == vm.host and (each is vm or rng.random() < 0.5))
        rules.append(
            Rule(together, (vm.host, *hosts[1:]), affine=True) if rng.random() < 0.5 else Rule(together, tuple(hosts))
        )
    return replace(cluster, rules=tuple(rules))


def _after(rng: random.Random, case: Case) -> tuple[tuple[str, str], ...]:
    """What people do when HA has done what it can: mostly nothing."""
    done: list[tuple[str, str]] = []
    if rng.random() < 0.25:
        done += [("return", host) for _, host in case.failures if host not in case.early]
    if rng.random() < 0.45:
        return tuple(done)
    model = Model(case).follow()
    there = [state for state in model.states.values() if state.on and state.host not in model.down and state.vm.gpus]
    for state in rng.sample(there, min(len(there), rng.choice((1, 1, 2)))):
        shares = all(device.kind == "vgpu" for device in state.vm.gpus)
        kinds = (
            "power-off",
            "power-off",
            "remove",
            "orphan",
            "orphan",
            "lose-files",
            *(("suspend",) * 3 if shares else ()),
        )
        if not state.asks:
            done.append((rng.choice(kinds), state.vm.name))
    return tuple(done)
