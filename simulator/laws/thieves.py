"""Other people's VMs that take GPUs while somebody is about to."""

from __future__ import annotations

from collections.abc import Callable

from simulator.laws.adding import put_vm
from simulator.laws.mmio import mmio_gib_needed
from simulator.laws.placement import fit
from simulator.world import Host, VirtualMachine, VmGpu, World

__all__ = ["new_vm", "rob", "static_gpu"]

_MANY = 64


def new_vm(world: World, host: Host, name: str, gpus: list[VmGpu]) -> VirtualMachine:
    """A VM as it is after its owner made it right for these GPUs; not in the inventory yet."""
    cluster = host.compute
    datacenter = next(iter(world.datacenters.values()))
    largest = max((card.framebuffer_mib for card in host.gpus.values()), default=0)
    size = mmio_gib_needed([largest] * max(1, len(gpus)))
    return VirtualMachine(
        world.moid("vm-"), name, world.uuid(), world.uuid(), host, datacenter.vm_folder,
        cluster.datastores[:1], cluster.networks[:1], cluster.pool, world.registry.clock.now(),
        memory_reserved_all=bool(gpus), gpus=gpus,
        extra_config={"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": str(size)} if gpus else {},
    )  # fmt: skip


def static_gpu(host: Host, pci_id: str, key: int = 13000) -> VmGpu:
    """A device of a host for a VM with static DirectPath I/O; raises `KeyError` for one that it does not have."""
    function = host.pci.get(pci_id)
    if function is None:
        raise KeyError(f"{host.name} has no PCI device {pci_id!r}")
    return VmGpu(
        key,
        "static",
        pci_id=function.id,
        device_name=function.device_name,
        vendor_id=function.vendor_id,
        device_id=function.device_id,
        system_id=host.uuid,
    )


def rob(world: World, victim: VirtualMachine, host: Host, start: Callable[[VirtualMachine], None]) -> list[str]:
    """Take what the victim would get on the host, with VMs of others, until it gets nothing there; their names."""
    names: list[str] = []
    while victim.gpus and not fit(host, victim).missing and len(names) < _MANY:
        gpu = victim.gpus[0]
        wanted = fit(host, victim).devices[gpu.key]
        loot = VmGpu(13000, "vgpu", profile=gpu.profile) if gpu.kind == "vgpu" else static_gpu(host, wanted)
        thief = new_vm(world, host, f"thief-{len(world.vms) + 1:04d}", [loot])
        put_vm(world, thief)
        start(thief)
        names.append(thief.name)
    return names
