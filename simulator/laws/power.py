"""VMs are powered on and off, and their guests boot, or do not."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.laws.notices import post_vm_event
from simulator.laws.passthrough import require_connected
from simulator.laws.placement import Fit, fit, hosts_for
from simulator.laws.vm_states import move, stop
from simulator.world import Host, VirtualMachine, World

__all__ = [
    "boots",
    "guest_is_up",
    "mmio_gib_needed",
    "power_off",
    "power_on",
    "power_on_many",
    "reboot_guest",
    "reset",
    "shut_down_guest",
    "start_on",
    "suspend",
]

POWER_ON_SECONDS = 3.0
POWER_OFF_SECONDS = 2.0
GUEST_BOOT_SECONDS = 30.0
GUEST_SHUTDOWN_SECONDS = 15.0
LARGE_BAR_MIB = 16 * 1024
"""Cards from this framebuffer on do not fit below 4 GiB and need 64-bit MMIO space."""


def mmio_gib_needed(framebuffers_mib: list[int]) -> int:
    """The 64-bit MMIO space for these GPUs, in GiB: their sum to the next power of two, and once more.

    A sum that is a power of two already is doubled only once.
    """
    total = -(-sum(framebuffers_mib) // 1024)
    power = 1 << max(0, (total - 1).bit_length())
    return power * 2


def boots(vm: VirtualMachine) -> bool:
    """Whether the guest comes up. When it does not, vSphere shows no error: the VM runs and nothing answers.

    A VM with whole GPUs needs EFI and a 64-bit guest OS, and for large BARs enough 64-bit MMIO space.
    """
    if not vm.passthrough:
        return True
    if vm.firmware != "efi" or "64" not in vm.guest_id:
        return False
    cards = [vm.host.gpus[gpu.assigned_id] for gpu in vm.passthrough if gpu.assigned_id in vm.host.gpus]
    sizes = [card.framebuffer_mib for card in cards]
    if not any(size >= LARGE_BAR_MIB for size in sizes):
        return True
    settings = {key.lower(): value for key, value in vm.extra_config.items()}
    if settings.get("pcipassthru.use64bitmmio", "").upper() != "TRUE":
        return False
    size = settings.get("pcipassthru.64bitmmiosizegb", "0")
    return size.isdigit() and int(size) >= mmio_gib_needed(sizes)


async def power_on(world: World, vm: VirtualMachine, host: Host | None = None) -> None:
    """`PowerOnVM_Task`; with DRS the host may be another one than the VM was registered on.

    Raises `InvalidPowerState` when it is on, `InvalidState` for a template or a host in maintenance,
    `GenericVmConfigFault` for a static device that is in use or sits twice in the VM and for a GPU without full
    memory reservation, `InsufficientResourcesFault` when no host has the devices or the memory.
    """
    _check_startable(vm)
    target = _choose_host(world, vm, host)
    post_vm_event(world, vim.event.VmStartingEvent, vm, f"{vm.name} is starting")
    await world.sleep(POWER_ON_SECONDS)
    _check_startable(vm)
    # Three seconds are long enough for another VM to take the device, or for the host to go.
    if not target.up or target.in_maintenance or fit(target, vm).missing:
        target = _choose_host(world, vm, host)
    # vCenter names DRS in the event when it was DRS that chose.
    kind = vim.event.VmPoweredOnEvent if target in (host, vm.host) else vim.event.DrsVmPoweredOnEvent
    start_on(world, vm, target)
    post_vm_event(world, kind, vm, f"{vm.name} on {vm.host.name} is powered on")


def _check_startable(vm: VirtualMachine) -> None:
    if vm.template:
        raise vim.fault.InvalidState(msg=f"{vm.name} is a template.")
    if vm.power_state == "poweredOn":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOn", existingState="poweredOn", msg=f"{vm.name} is already powered on."
        )
    if vm.gpus and not (vm.memory_reserved_all or vm.memory_reservation_mib >= vm.memory_mib):
        raise vim.fault.GenericVmConfigFault(
            reason="Invalid memory setting: memory reservation (sched.mem.min) should be equal to "
            f"memsize({vm.memory_mib}).",
            msg="Module 'DevicePowerOn' power on failed.",
        )
    if vm.passthrough and len(vm.passthrough) != len(vm.gpus):
        raise vim.fault.GenericVmConfigFault(
            reason="A VM cannot have passthrough and vGPU devices at once.",
            msg="Module 'DevicePowerOn' power on failed.",
        )


def _choose_host(world: World, vm: VirtualMachine, wanted: Host | None) -> Host:
    """DRS finds a host with free devices for all but static devices; without DRS it is the VM's own, or nothing."""
    static = any(gpu.kind == "static" for gpu in vm.gpus)
    if wanted is None and vm.host.compute.drs_enabled and not static:
        candidates = hosts_for(world, vm)
        if candidates:
            return candidates[0]
        if vm.gpus:
            raise _refusal(vm, fit(vm.host, vm))
    host = wanted or vm.host
    require_connected(world, host)
    if host.in_maintenance or host.entering_maintenance:
        raise vim.fault.InvalidState(msg=f"{host.name} is in maintenance mode: {vm.name} cannot be powered on there.")
    found = fit(host, vm)
    if found.missing:
        raise _refusal(vm, found)
    if host not in hosts_for(world, vm):
        raise vim.fault.InsufficientResourcesFault(msg=f"{host.name} has too little free memory for {vm.name}.")
    return host


def _refusal(vm: VirtualMachine, found: Fit) -> Any:
    if found.static_conflict:
        return vim.fault.GenericVmConfigFault(
            reason=f"Module 'DevicePowerOn' power on failed: {found.missing}.",
            msg="Module 'DevicePowerOn' power on failed.",
        )
    devices = ", ".join(f"pciPassthru{index}" for index, _ in enumerate(vm.gpus))
    kind = (
        vim.fault.InsufficientGraphicsResourcesFault
        if any(gpu.kind == "vgpu" for gpu in vm.gpus)
        else vim.fault.InsufficientResourcesFault
    )
    return kind(
        msg="Insufficient resources. One or more devices "
        f"({devices}) required by VM {vm.name} are not available on host {vm.host.name}: {found.missing}."
    )


def start_on(world: World, vm: VirtualMachine, host: Host, *, boot_guest: bool = True) -> None:
    """The VM runs on `host` from now on, with its devices; its guest boots in the background, if it can."""
    found = fit(host, vm)
    if vm.host is not host:
        move(world, vm, host)
    for gpu in vm.gpus:
        gpu.assigned_id = found.devices[gpu.key]
    vm.power_state = "poweredOn"
    vm.last_seen = None
    vm.boot_time = world.registry.clock.now()
    vm.protected = vm.host.compute.ha_enabled
    world.changed(vm, host)
    if boot_guest and boots(vm):
        world.start(_boot_guest(world, vm, vm.boot_time))


async def _boot_guest(world: World, vm: VirtualMachine, boot_time: Any) -> None:
    await world.sleep(GUEST_BOOT_SECONDS)
    if vm.boot_time == boot_time:
        guest_is_up(world, vm)


def guest_is_up(world: World, vm: VirtualMachine) -> None:
    """VMware Tools run and the guest has its address."""
    number = int(vm.moid.removeprefix("vm-"))
    vm.booted = True
    vm.ip_address = f"10.{100 + number // 65536}.{number // 256 % 256}.{number % 256}"
    world.changed(vm)


def _require_on(vm: VirtualMachine, requested: str) -> None:
    if vm.power_state != "poweredOn":
        raise vim.fault.InvalidPowerState(
            requestedState=requested, existingState=vm.power_state, msg=f"{vm.name} is not powered on."
        )


async def power_off(world: World, vm: VirtualMachine) -> None:
    """`PowerOffVM_Task`; raises `InvalidPowerState` when the VM is off."""
    require_connected(world, vm.host)
    if vm.power_state == "poweredOff":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOff", existingState="poweredOff", msg=f"{vm.name} is already powered off."
        )
    post_vm_event(world, vim.event.VmStoppingEvent, vm, f"{vm.name} is stopping")
    await world.sleep(POWER_OFF_SECONDS)
    stop(world, vm)
    post_vm_event(world, vim.event.VmPoweredOffEvent, vm, f"{vm.name} on {vm.host.name} is powered off")


def shut_down_guest(world: World, vm: VirtualMachine) -> None:
    """`ShutdownGuest`: the guest goes down after a while; raises `ToolsUnavailable` when no guest answers."""
    _require_on(vm, "poweredOff")
    _require_tools(vm)
    world.start(_shut_down(world, vm))


async def _shut_down(world: World, vm: VirtualMachine) -> None:
    await world.sleep(GUEST_SHUTDOWN_SECONDS)
    if vm.power_state == "poweredOn":
        stop(world, vm)
        post_vm_event(world, vim.event.VmGuestShutdownEvent, vm, f"Guest OS of {vm.name} shut down")
        post_vm_event(world, vim.event.VmPoweredOffEvent, vm, f"{vm.name} on {vm.host.name} is powered off")


def reboot_guest(world: World, vm: VirtualMachine) -> None:
    """`RebootGuest`; raises `ToolsUnavailable` when no guest answers."""
    _require_on(vm, "poweredOn")
    _require_tools(vm)
    _restart_guest(world, vm)


def _require_tools(vm: VirtualMachine) -> None:
    if not vm.booted:
        raise vim.fault.ToolsUnavailable(msg=f"VMware Tools is not running in {vm.name}.")


def _restart_guest(world: World, vm: VirtualMachine) -> None:
    vm.booted, vm.ip_address = False, None
    vm.boot_time = world.registry.clock.now()
    world.changed(vm)
    if boots(vm):
        world.start(_boot_guest(world, vm, vm.boot_time))


async def reset(world: World, vm: VirtualMachine) -> None:
    """`ResetVM_Task`: the VM keeps its devices and boots again; raises `InvalidPowerState` when it is off."""
    _require_on(vm, "poweredOn")
    await world.sleep(POWER_OFF_SECONDS)
    post_vm_event(world, vim.event.VmResettingEvent, vm, f"{vm.name} on {vm.host.name} is reset")
    _restart_guest(world, vm)


async def suspend(world: World, vm: VirtualMachine) -> None:
    """`SuspendVM_Task`; raises `NotSupported` for a VM with passthrough devices."""
    _require_on(vm, "suspended")
    if vm.passthrough:
        raise vmodl.fault.NotSupported(msg=f"{vm.name} has passthrough devices and cannot be suspended.")
    await world.sleep(POWER_OFF_SECONDS)
    stop(world, vm)
    vm.power_state = "suspended"
    post_vm_event(world, vim.event.VmSuspendedEvent, vm, f"{vm.name} on {vm.host.name} is suspended")
    world.changed(vm)


async def power_on_many(world: World, vms: list[VirtualMachine]) -> Any:
    """`PowerOnMultiVM_Task`: succeeds also when VMs stay off; those are in `notAttempted` of its result."""
    result = vim.cluster.PowerOnVmResult(attempted=[], notAttempted=[])
    for vm in vms:
        try:
            _check_startable(vm)
            _choose_host(world, vm, None)
        except vmodl.MethodFault as fault:
            result.notAttempted.append(vim.cluster.NotAttemptedVmInfo(vm=world.ref(vm), fault=fault))
            continue
        task = world.registry.tasks.start(world.managed(vm), "VirtualMachine.powerOn", power_on(world, vm))
        result.attempted.append(vim.cluster.AttemptedVmInfo(vm=world.ref(vm), task=task.ref()))
    return result
