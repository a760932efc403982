"""A world to test laws on directly: no wire, real tasks and events, a minute in 30 ms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from simulator.build import build_world
from simulator.core import Call, Registry
from simulator.world import Host, VirtualMachine, VmGpu, World

__all__ = ["CALL", "dynamic_gpu", "events", "give", "gpu_ids", "make_passthrough", "static_gpu", "until", "world_of"]


class _Session:
    key = "session-1"
    user = "tester"


CALL = Call(_Session(), "8.0.2.0", "Test")


@asynccontextmanager
async def world_of(time_scale: float = 2000, **size: int) -> AsyncIterator[World]:
    """A built world, stopped afterwards: three hosts with two GPUs each and no VMs, unless told otherwise."""
    registry = Registry(time_scale)
    world = build_world(registry, **({"hosts": 3, "gpus": 2, "vms": 0} | size))
    try:
        yield world
    finally:
        await registry.tasks.close()
        await world.close()


def events(world: World) -> list[str]:
    """The types of all events so far, oldest first, without those of tasks."""
    return [event.wsdl_type for event in world.registry.events.forwards(1) if event.wsdl_type != "TaskEvent"]


async def until(condition: Callable[[], Any], timeout_s: float = 60.0) -> None:
    """Wait until `condition` holds."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 - conditions are plain state, nothing announces them
            await asyncio.sleep(0.002)


def gpu_ids(host: Host) -> list[str]:
    return list(host.gpus)


def make_passthrough(host: Host, *pci_ids: str, label: str = "") -> None:
    """Devices as they are after passthrough was enabled and the host rebooted."""
    for pci_id in pci_ids or tuple(host.gpus):
        function = host.pci[pci_id]
        function.passthru_enabled = function.passthru_active = True
        function.hardware_label = label
        host.gpus[pci_id].active_type = "direct"


def give(vm: VirtualMachine, *gpus: VmGpu) -> VirtualMachine:
    """Switch a VM off and give it GPUs and all it takes to boot with them."""
    vm.power_state, vm.booted, vm.boot_time, vm.ip_address = "poweredOff", False, None, None
    vm.gpus = list(gpus)
    vm.memory_reserved_all = True
    vm.extra_config = {"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": "1024"}
    return vm


def static_gpu(pci_id: str, key: int = 13000) -> VmGpu:
    return VmGpu(key, "static", pci_id=pci_id, vendor_id=0x10DE, device_id=0x20F1)


def dynamic_gpu(label: str = "", key: int = 13000) -> VmGpu:
    return VmGpu(key, "dynamic", allowed=((0x10DE, 0x20F1),), label=label)
