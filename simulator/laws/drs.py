"""Power-on through DRS: done, only recommended, or not attempted at all; the task succeeds in each case."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Managed
from simulator.laws.power import check_reachable, check_startable, choose_host, drs_automation, power_on
from simulator.world import Cluster, Host, Recommendation, VirtualMachine, World

__all__ = ["apply", "cancel", "power_on_many", "recommend", "shown"]

OVERRIDE = "OverrideAutomationLevel"


async def power_on_many(world: World, vms: list[VirtualMachine], options: list[Any] | None = None) -> Any:
    """`PowerOnMultiVM_Task`: succeeds also when VMs stay off.

    What cannot start is in `notAttempted` of its result. Where DRS is manual, for the cluster or the VM, nothing is
    started: the result has `recommendations`, unless the option `OverrideAutomationLevel` says otherwise.
    """
    result = vim.cluster.PowerOnVmResult(attempted=[], notAttempted=[], recommendations=[])
    override = next((str(option.value) for option in options or [] if option.key == OVERRIDE), "")
    for vm in vms:
        manual = (override or drs_automation(vm)) == "manual" and drs_automation(vm) != "disabled"
        try:
            check_reachable(world, vm)
            check_startable(vm)
            host = choose_host(world, vm, None, recommend=manual or bool(override))
        except vmodl.MethodFault as fault:
            result.notAttempted.append(vim.cluster.NotAttemptedVmInfo(vm=world.ref(vm), fault=fault))
            continue
        if manual:
            result.recommendations.append(shown(world, recommend(world, vm, host)))
            continue
        task = _start(world, vm, host if override else None)
        result.attempted.append(vim.cluster.AttemptedVmInfo(vm=world.ref(vm), task=task.ref()))
    return result


def _start(world: World, vm: VirtualMachine, host: Host | None) -> Managed:
    return world.registry.tasks.start(world.managed(vm), "VirtualMachine.powerOn", power_on(world, vm, host))


def recommend(world: World, vm: VirtualMachine, host: Host) -> Recommendation:
    """DRS would power the VM on there; what it recommended for the VM before is gone."""
    cluster = vm.host.compute
    cluster.forget_recommendations(vm)
    key = str(1 + max((int(known) for known in cluster.recommendations), default=0))
    found = cluster.recommendations[key] = Recommendation(key, vm, host, world.registry.clock.now())
    world.changed(cluster)
    return found


def shown(world: World, found: Recommendation) -> Any:
    """A recommendation as vSphere shows it."""
    place = vim.cluster.InitialPlacementAction(
        type="HostPowerV1", target=world.ref(found.vm), targetHost=world.ref(found.host)
    )
    return vim.cluster.Recommendation(
        key=found.key,
        type="V1",
        time=found.time,
        rating=1,
        reason="powerOnVm",
        reasonText=f"Power on {found.vm.name} on {found.host.name}",
        action=[place],
        target=world.ref(found.host.compute),
    )


def _taken(world: World, cluster: Cluster, key: str) -> Recommendation:
    found = cluster.recommendations.pop(key, None)
    if found is None:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="key", msg=f"DRS has no recommendation {key} for {cluster.name}."
        )
    world.changed(cluster)
    return found


def apply(world: World, cluster: Cluster, key: str) -> None:
    """`ApplyRecommendation`: the VM is powered on where DRS said; raises `InvalidArgument` for an unknown key."""
    found = _taken(world, cluster, key)
    if found.vm.moid in world.vms:
        work = power_on(world, found.vm, found.host, by_drs=True)
        world.registry.tasks.start(world.managed(found.vm), "VirtualMachine.powerOn", work)


def cancel(world: World, cluster: Cluster, key: str) -> None:
    """`CancelRecommendation`; raises `InvalidArgument` for an unknown key."""
    _taken(world, cluster, key)
