"""Clusters whose hosts fail, and what HA said about it."""

from __future__ import annotations

from typing import Any

from simulator.laws import hosts, power
from simulator.world import Cluster, Host, VirtualMachine, VmGpu, World
from tests.simulator.law_world import dynamic_gpu, give, gpu_ids, make_passthrough, static_gpu

__all__ = ["cluster_of", "failed", "gpu_vm", "ha_over", "isolated", "prepared", "recorded", "said"]


def cluster_of(world: World) -> Cluster:
    return next(iter(world.clusters.values()))


def prepared(world: World, label: str = "Training") -> list[Host]:
    """All hosts, with all GPUs in passthrough."""
    found = list(world.hosts.values())
    for host in found:
        make_passthrough(host, label=label)
    return found


async def gpu_vm(world: World, host: Host, name: str, *gpus: VmGpu, static: bool = False) -> VirtualMachine:
    """A new VM that runs on this host, with Dynamic DirectPath I/O unless told otherwise."""
    vm = world.vms[await world.actions["add_vm"](host.name, name, on=False)]
    give(vm, *(gpus or ((static_gpu(gpu_ids(host)[0]) if static else dynamic_gpu("Training")),)))
    await power.power_on(world, vm, host)
    assert vm.host is host
    return vm


async def ha_over(*lost: Host) -> None:
    """What befell the hosts has been noticed, and HA has done what it could."""
    for host in lost:
        assert host.background is not None
        await host.background
    if (failover := lost[0].compute.failover) is not None:
        await failover


async def failed(world: World, *lost: Host) -> None:
    world.actions["fail_hosts"]([host.name for host in lost])
    await ha_over(*lost)


async def isolated(world: World, host: Host) -> None:
    hosts.isolate(world, host)
    await ha_over(host)


def recorded(world: World) -> list[Any]:
    """All events from now on, as pyVmomi objects."""
    found: list[Any] = []
    post = world.registry.events.post

    def posted(event: Any, hidden: bool = False) -> Any:
        found.append(event)
        return post(event, hidden)

    world.registry.events.post = posted  # type: ignore[method-assign]
    return found


def said(found: list[Any], kind: str, vm: VirtualMachine | None = None) -> list[Any]:
    """The events of a type, or of an `eventTypeId`, and about one VM."""
    return [
        event
        for event in found
        if (type(event).__name__.rpartition(".")[2] == kind or getattr(event, "eventTypeId", None) == kind)
        and (vm is None or (event.vm is not None and event.vm.vm._moId == vm.moid))
    ]
