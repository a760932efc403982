"""VMs are powered on and off, and their guests boot, or do not."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.guests import Question
from simulator.laws import admission, thieves
from simulator.laws.guests import tools_come_up, went_down
from simulator.laws.mmio import LARGE_BAR_MIB, mmio_gib_needed
from simulator.laws.notices import host_argument, post_vm_event, vm_argument
from simulator.laws.passthrough import require_connected
from simulator.laws.placement import Fit, fit, hosts_for
from simulator.laws.profiles import profiles_of
from simulator.laws.vm_states import move, stop
from simulator.world import Host, VirtualMachine, World

__all__ = [
    "answer",
    "ask",
    "boots",
    "check_mmio",
    "check_reachable",
    "check_startable",
    "choose_host",
    "drs_automation",
    "mmio_gib_needed",
    "power_off",
    "power_on",
    "reboot_guest",
    "reset",
    "shut_down_guest",
    "start_guest",
    "start_on",
    "suspend",
]

POWER_ON_SECONDS = 3.0
POWER_OFF_SECONDS = 2.0
GUEST_BOOT_SECONDS = 30.0
GUEST_SHUTDOWN_SECONDS = 15.0


def boots(vm: VirtualMachine) -> bool:
    """Whether the guest comes up. When it does not, vSphere shows no error: the VM runs and nothing answers.

    There must be an operating system on the disk. A VM with GPUs needs EFI and a 64-bit guest OS, and for whole cards
    with large BARs and for large vGPU profiles enough 64-bit MMIO space.
    """
    return not vm.blank and _starts_with(vm, vm.host, {gpu.key: gpu.assigned_id or "" for gpu in vm.gpus})


def _starts_with(vm: VirtualMachine, host: Host, devices: dict[int, str]) -> bool:
    """Whether its firmware gets past these devices, by virtual device key."""
    if not vm.gpus:
        return True
    if vm.firmware != "efi" or "64" not in vm.guest_id:
        return False
    sizes = [_framebuffer_mib(host, devices[gpu.key], gpu.profile) for gpu in vm.gpus]
    if not any(size >= LARGE_BAR_MIB for size in sizes):
        return True
    settings = {key.lower(): value for key, value in vm.extra_config.items()}
    if settings.get("pcipassthru.use64bitmmio", "").upper() != "TRUE":
        return False
    size = settings.get("pcipassthru.64bitmmiosizegb", "0")
    return size.isdigit() and int(size) >= mmio_gib_needed(sizes)


def _framebuffer_mib(host: Host, pci_id: str, profile: str) -> int:
    if pci_id not in host.gpus:
        return 0
    if profile:
        found = profiles_of(host, pci_id).get(profile)
        return found.framebuffer_mib if found else 0
    return host.gpus[pci_id].framebuffer_mib


async def power_on(world: World, vm: VirtualMachine, host: Host | None = None, *, by_drs: bool = False) -> None:
    """`PowerOnVM_Task`; with DRS the host may be another one than the VM was registered on.

    `by_drs`: one of its recommendations is applied, which also moves the VM away from a host that is lost. Raises
    `InvalidHostConnectionState` while its host does not answer, `InsufficientFailoverResourcesFault` where admission
    control refuses, `FileLocked` while it may still run elsewhere, `InvalidPowerState` when it is on, `InvalidState`
    for a template or a host in maintenance, `GenericVmConfigFault` for a static device that is in use or sits twice
    in the VM, for a GPU without full memory reservation and, on hosts that say so, for too little MMIO space,
    `InsufficientResourcesFault` when no host has the devices or the memory. A VM that asks something runs without
    its guest, and the task goes on until somebody answers; an answer that cancels ends it with `RequestCanceled`.
    """
    if not by_drs:
        check_reachable(world, vm)
    check_startable(vm)
    admission.admit(vm)
    target = choose_host(world, vm, host)
    post_vm_event(world, vim.event.VmStartingEvent, vm, f"{vm.name} is starting")
    await world.sleep(POWER_ON_SECONDS)
    if not by_drs:
        check_reachable(world, vm)
    check_startable(vm)
    if vm.quirks.robbed:
        vm.quirks.robbed = False
        thieves.rob(world, vm, target, lambda thief: start_on(world, thief, target))
    # Three seconds are long enough for another VM to take the device, or for the host to go.
    if not target.up or target.in_maintenance or fit(target, vm).missing:
        target = choose_host(world, vm, host)
    check_mmio(vm, target)
    # vCenter names DRS in the event when it was DRS that chose.
    kind = vim.event.VmPoweredOnEvent if target in (host, vm.host) else vim.event.DrsVmPoweredOnEvent
    start_on(world, vm, target, boot_guest=vm.quirks.question is None)
    if vm.quirks.question is not None:
        await ask(world, vm, *vm.quirks.question)
        start_guest(world, vm)
    post_vm_event(world, kind, vm, f"{vm.name} on {vm.host.name} is powered on")


def check_reachable(world: World, vm: VirtualMachine) -> None:
    """Raise what stands against any operation on a VM that vCenter cannot reach."""
    if vm.stray:
        raise vim.fault.InvalidState(msg=f"{vm.name} is {vm.stray}.")
    if vm.host.connection_state != "connected" or not vm.host.responding:
        raise vim.fault.InvalidHostConnectionState(
            host=world.ref(vm.host),
            msg=f"The operation is not allowed in the current connection state of the host {vm.host.name}.",
        )


def check_mmio(vm: VirtualMachine, target: Host) -> None:
    """Raise `GenericVmConfigFault` where the host's release says so when the VM has too little MMIO space."""
    if target.names_small_mmio and not _starts_with(vm, target, fit(target, vm).devices):
        raise vim.fault.GenericVmConfigFault(
            reason="Module 'DevicePowerOn' power on failed.", msg="Module 'DevicePowerOn' power on failed."
        )


async def ask(world: World, vm: VirtualMachine, text: str, choices: tuple[str, ...]) -> None:
    """The VM waits for an answer; raises `RequestCanceled` when it cancels, or when the VM is powered off instead."""
    question = vm.question = Question(f"{1_000_000 + world.registry.revision}", text, choices)
    message = f"Message on {vm.name} on {vm.host.name}: {text}"
    world.post(
        vim.event.VmMessageEvent(
            vm=vm_argument(world, vm), host=host_argument(world, vm.host), message=text, fullFormattedMessage=message
        )
    )
    world.changed(vm)
    await question.answered.wait()
    if vm.question is question:
        vm.question = None
    if not question.answer or question.answer in question.cancels:
        if vm.power_state == "poweredOn":
            stop(world, vm)
        raise vmodl.fault.RequestCanceled(msg=f"The power-on of {vm.name} was canceled: {text}")
    vm.quirks.question = None
    world.changed(vm)


def answer(world: World, vm: VirtualMachine, key: str, choice: str) -> None:
    """`AnswerVM`, with the choice's key; raises `ConcurrentAccess` for another question than the one that waits,
    `InvalidArgument` for no choice of it.
    """
    question = vm.question
    if question is None or question.key != key:
        raise vim.fault.ConcurrentAccess(msg=f"{vm.name} does not ask question {key}.")
    if not choice.isdigit() or int(choice) >= len(question.choices):
        raise vmodl.fault.InvalidArgument(invalidProperty="answerChoice", msg=f"{choice!r} is no choice.")
    question.answer = question.choices[int(choice)]
    vm.question = None
    question.answered.set()
    world.changed(vm)


def check_startable(vm: VirtualMachine) -> None:
    """Raise what stands against a power-on whatever the host."""
    if vm.template:
        raise vim.fault.InvalidState(msg=f"{vm.name} is a template.")
    if vm.power_state == "poweredOn":
        raise vim.fault.InvalidPowerState(
            requestedState="poweredOn", existingState="poweredOn", msg=f"{vm.name} is already powered on."
        )
    holder = vm.locked_by
    if holder is not None and holder.power_state == "poweredOn" and holder.host.power_state == "poweredOn":
        raise vim.fault.FileLocked(
            file=vm.vmx, msg=f"Failed to lock the file {vm.vmx}: {vm.name} may run on {holder.host.name}."
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


def drs_automation(vm: VirtualMachine) -> str:
    """What DRS may do with the VM: `manual`, `partiallyAutomated`, `fullyAutomated` or `disabled`."""
    cluster = vm.host.compute
    return (vm.drs_override or cluster.drs_behavior) if cluster.drs_enabled else "disabled"


def choose_host(world: World, vm: VirtualMachine, wanted: Host | None, *, recommend: bool = False) -> Host:
    """DRS finds a host with free devices for all but static devices; without DRS it is the VM's own, or nothing.

    A manual DRS finds one only to `recommend` it.
    """
    static = any(gpu.kind == "static" for gpu in vm.gpus)
    places = drs_automation(vm) in ("partiallyAutomated", "fullyAutomated") or recommend
    if wanted is None and places and not static:
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
    vm.last_seen, vm.last_ids = None, {}
    vm.boot_time = world.registry.clock.now()
    vm.protected = True
    if host.compute.forget_recommendations(vm):
        world.changed(host.compute)
    world.changed(vm, host)
    if boot_guest:
        start_guest(world, vm)


def start_guest(world: World, vm: VirtualMachine) -> None:
    """The guest of a running VM boots in the background, if it can."""
    if boots(vm):
        world.start(_boot_guest(world, vm, vm.boot_time))


async def _boot_guest(world: World, vm: VirtualMachine, boot_time: Any) -> None:
    await world.sleep(GUEST_BOOT_SECONDS)
    if vm.boot_time == boot_time:
        tools_come_up(world, vm)


def _require_on(world: World, vm: VirtualMachine, requested: str) -> None:
    check_reachable(world, vm)
    if vm.power_state != "poweredOn":
        raise vim.fault.InvalidPowerState(
            requestedState=requested, existingState=vm.power_state, msg=f"{vm.name} is not powered on."
        )


async def power_off(world: World, vm: VirtualMachine) -> None:
    """`PowerOffVM_Task`; raises `InvalidPowerState` when the VM is off, `InvalidHostConnectionState`."""
    check_reachable(world, vm)
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
    _require_on(world, vm, "poweredOff")
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
    _require_on(world, vm, "poweredOn")
    _require_tools(vm)
    _restart_guest(world, vm)


def _require_tools(vm: VirtualMachine) -> None:
    if not vm.booted:
        raise vim.fault.ToolsUnavailable(msg=f"VMware Tools is not running in {vm.name}.")


def _restart_guest(world: World, vm: VirtualMachine) -> None:
    went_down(vm)
    vm.booted, vm.ip_address = False, None
    vm.boot_time = world.registry.clock.now()
    world.changed(vm)
    start_guest(world, vm)


async def reset(world: World, vm: VirtualMachine) -> None:
    """`ResetVM_Task`: the VM keeps its devices and boots again; raises `InvalidPowerState` when it is off."""
    _require_on(world, vm, "poweredOn")
    await world.sleep(POWER_OFF_SECONDS)
    post_vm_event(world, vim.event.VmResettingEvent, vm, f"{vm.name} on {vm.host.name} is reset")
    _restart_guest(world, vm)


async def suspend(world: World, vm: VirtualMachine) -> None:
    """`SuspendVM_Task`; raises `NotSupported` for a VM with passthrough devices."""
    _require_on(world, vm, "suspended")
    if vm.passthrough:
        raise vmodl.fault.NotSupported(msg=f"{vm.name} has passthrough devices and cannot be suspended.")
    await world.sleep(POWER_OFF_SECONDS)
    stop(world, vm)
    vm.power_state = "suspended"
    post_vm_event(world, vim.event.VmSuspendedEvent, vm, f"{vm.name} on {vm.host.name} is suspended")
    world.changed(vm)
