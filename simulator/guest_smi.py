"""`nvidia-smi` in a guest: the calls that prove a driver, in NVIDIA's words."""

from __future__ import annotations

from simulator.guests import Guest, GuestDriver
from simulator.laws.guest_drivers import GuestGpu, gpus_of, trouble
from simulator.nvidia_smi import Output
from simulator.world import VirtualMachine

__all__ = ["guest_nvidia_smi"]

TOKENS = "/etc/nvidia/ClientConfigToken/"


def guest_nvidia_smi(vm: VirtualMachine, guest: Guest, driver: GuestDriver, arguments: list[str]) -> Output:
    """Run the `nvidia-smi` that came with `driver`."""
    if (found := trouble(vm, guest, driver)) is not None:
        return Output(found.text, found.status)
    gpus = gpus_of(vm)
    query = [argument.partition("=")[2] for argument in arguments if argument.startswith("--query-gpu=")]
    form = next((argument.partition("=")[2] for argument in arguments if argument.startswith("--format=")), "")
    known = {"-L", "--list-gpus", "-q", "--query"}
    if unknown := [
        argument
        for argument in arguments
        if argument not in known and not argument.startswith(("--query-gpu=", "--format="))
    ]:
        return _usage(f"ERROR: Option {unknown[0]} is not recognized.")
    if query:
        return _query(gpus, driver, query[0].split(","), form.split(","))
    if {"-L", "--list-gpus"} & set(arguments):
        return Output("".join(f"GPU {index}: {gpu.name} (UUID: {gpu.uuid})\n" for index, gpu in enumerate(gpus)))
    if {"-q", "--query"} & set(arguments):
        return Output(_details(gpus, guest, driver))
    return Output(_table(gpus, driver))


def _usage(wrong: str) -> Output:
    return Output(f'{wrong}\nInvalid combination of input arguments. Please run "nvidia-smi -h" for help.\n', 2)


def _query(gpus: list[GuestGpu], driver: GuestDriver, wanted: list[str], form: list[str]) -> Output:
    if form[0] != "csv":
        return _usage("ERROR: --query-gpu requires --format=csv.")
    names = [name.strip() for name in wanted]
    lines = [] if "noheader" in form else [", ".join(names)]
    for index, gpu in enumerate(gpus):
        unit = "" if "nounits" in form else " MiB"
        fields = {
            "index": str(index),
            "count": str(len(gpus)),
            "name": gpu.name,
            "gpu_name": gpu.name,
            "uuid": gpu.uuid,
            "gpu_uuid": gpu.uuid,
            "pci.bus_id": _bus_id(gpu),
            "gpu_bus_id": _bus_id(gpu),
            "driver_version": driver.version,
            "memory.total": f"{gpu.framebuffer_mib}{unit}",
            "mig.mode.current": _mig(gpu),
        }
        for name in names:
            if name not in fields:
                return Output(f'Field "{name}" is not a valid field to query.\n', 2)
        lines.append(", ".join(fields[name] for name in names))
    return Output("".join(f"{line}\n" for line in lines))


def _bus_id(gpu: GuestGpu) -> str:
    return f"0000{gpu.address.upper()}"


def _mig(gpu: GuestGpu) -> str:
    return "[N/A]" if gpu.mig is None else "Enabled" if gpu.mig else "Disabled"


def _licensed(guest: Guest) -> bool:
    """The client has a token, and its service asks with it."""
    token = any(path.startswith(TOKENS) and not found.is_directory for path, found in guest.files.items())
    return token and "nvidia-gridd" not in guest.stopped_services


def _details(gpus: list[GuestGpu], guest: Guest, driver: GuestDriver) -> str:
    lines = ["", "==============NVSMI LOG==============", ""]
    lines += [_line("Driver Version", driver.version), _line("Attached GPUs", str(len(gpus)))]
    for gpu in gpus:
        lines += [f"GPU {_bus_id(gpu)}", "    " + _line("Product Name", gpu.name), "    " + _line("GPU UUID", gpu.uuid)]
        lines += ["    MIG Mode", "        " + _line("Current", _mig(gpu).strip("[]"))]
        lines += ["    FB Memory Usage", "        " + _line("Total", f"{gpu.framebuffer_mib} MiB")]
        lines += ["    GPU Virtualization Mode"]
        lines += ["        " + _line("Virtualization Mode", "VGPU" if gpu.shared else "Pass-Through")]
        if gpu.shared:
            state = "Licensed" if _licensed(guest) else "Unlicensed (Unrestricted)"
            lines += ["    vGPU Software Licensed Product", "        " + _line("License Status", state)]
    return "\n".join(lines) + "\n"


def _line(name: str, value: str) -> str:
    return f"{name:<34}: {value}"


def _table(gpus: list[GuestGpu], driver: GuestDriver) -> str:
    rule = "+" + "-" * 77 + "+"
    head = f"| NVIDIA-SMI {driver.version:<22} Driver Version: {driver.version:<22}"
    rows = [
        f"| {index:>3}  {gpu.name:<28} {_bus_id(gpu)}   {gpu.framebuffer_mib}MiB".ljust(68) + f"{_mig(gpu):>9} |"
        for index, gpu in enumerate(gpus)
    ]
    return "\n".join([rule, f"{head:<78}|", rule, *rows, rule]) + "\n"
