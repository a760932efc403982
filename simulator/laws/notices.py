"""Events as vCenter words them, made from the world's state."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim

from simulator.world import Host, VirtualMachine, World

__all__ = ["host_argument", "post_host_event", "post_vm_event", "vm_argument"]


def host_argument(world: World, host: Host) -> Any:
    return vim.event.HostEventArgument(name=host.name, host=world.ref(host))


def vm_argument(world: World, vm: VirtualMachine) -> Any:
    return vim.event.VmEventArgument(name=vm.name, vm=world.ref(vm))


def post_host_event(world: World, kind: Any, host: Host, message: str, **fields: Any) -> None:
    """Log an event about a host; `message` is what people read."""
    world.post(kind(host=host_argument(world, host), fullFormattedMessage=message, **fields))


def post_vm_event(world: World, kind: Any, vm: VirtualMachine, message: str, **fields: Any) -> None:
    """Log an event about a VM and the host it is on."""
    world.post(
        kind(
            vm=vm_argument(world, vm),
            host=host_argument(world, vm.host),
            template=vm.template,
            fullFormattedMessage=message,
            **fields,
        )
    )
