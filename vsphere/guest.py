"""What `nvidia-smi` in a guest proves, and whether a GPU Operator rules there.

A GPU Operator's node runs a container that brings driver and `nvidia-smi` under `/run/nvidia/driver`; its pods are
`nvidia-driver-daemonset-…` of the namespace `gpu-operator`, whose logs the kubelet keeps in `/var/log/pods`.
Sources: NVIDIA's GPU Operator and `nvidia-smi` documentation.
"""

import re
from collections.abc import Iterable
from datetime import datetime

from pyVmomi import vim

from contracts.errors import Unreachable
from contracts.machine import GuestEvidence, GuestGpu, VmRef
from vsphere.guest_access import Guest, open_guest
from vsphere.guest_programs import Ended, GuestProgram, Heartbeat, list_programs, run
from vsphere.settings import GuestCredentials

__all__ = ["evidence_of", "inspect_guest", "look_inside"]

_QUERY = "--query-gpu=name,uuid,driver_version,memory.total --format=csv,noheader,nounits"
_DRIVER_ROOT = "/run/nvidia/driver"
_STATUS, _ROOT, _PODS = "gpuwright nvidia-smi", "gpuwright driver-root", "gpuwright operator-pods"
_LOOK = (
    f"nvidia-smi {_QUERY}; echo {_STATUS} $?; "
    f"test -e {_DRIVER_ROOT}/usr/bin/nvidia-smi; echo {_ROOT} $?; "
    f"ls /var/log/pods 2> /dev/null | grep -q nvidia-driver-daemonset; echo {_PODS} $?"
)
_NO_COMMAND = 127
_LOOK_TIMEOUT_S = 90.0
"""`nvidia-smi` without persistence takes many seconds on a machine with sixteen GPUs; a hung driver takes for ever."""
_OPERATOR_COMMAND = re.compile(r"(^|[\s/])nvidia-driver (init|load)\b")


def inspect_guest(
    si: vim.ServiceInstance,
    ref: VmRef,
    credentials: GuestCredentials,
    boot_time: datetime | None,
    heartbeat: Heartbeat,
) -> GuestEvidence:
    """Ask `nvidia-smi` in the guest; a login that it refuses is in `unreadable`, in words.

    The evidence is of the boot that vCenter shows now, or of `boot_time` where it shows none. Raises `Unreachable`
    when VMware Tools do not answer or the guest restarts, `NotSupported` for other guests than Linux.
    """
    guest = open_guest(si, ref, credentials)
    seen = look_inside(guest, heartbeat)
    return seen.model_copy(update={"boot_time": guest.boot_time or boot_time})


def look_inside(guest: Guest, heartbeat: Heartbeat) -> GuestEvidence:
    """`inspect_guest` for a guest that is open."""
    if refused := guest.refusal():
        return GuestEvidence(unreadable=refused, boot_time=guest.boot_time)
    programs = list_programs(guest)
    ended = run(guest, "/bin/sh", f"-c '{_LOOK}'", _LOOK_TIMEOUT_S, heartbeat)
    seen = evidence_of(ended, programs)
    if seen.gpu_operator and seen.driver_installed is False and f"{_ROOT} 0" in ended.output:
        sudo = "" if guest.credentials.user == "root" else "sudo -n "
        inner = f"{sudo}chroot {_DRIVER_ROOT} nvidia-smi {_QUERY}; echo {_STATUS} $?"
        seen = evidence_of(run(guest, "/bin/sh", f"-c '{inner}'", _LOOK_TIMEOUT_S, heartbeat), programs)
        seen = seen.model_copy(update={"gpu_operator": True})
    if (again := open_guest(guest.si, guest.ref, guest.credentials)).boot_time != guest.boot_time:
        raise Unreachable(f"{guest.where} was restarted at {again.boot_time} while it was looked at; look again")
    return seen.model_copy(update={"boot_time": guest.boot_time})


def evidence_of(ended: Ended, programs: Iterable[GuestProgram]) -> GuestEvidence:
    """What the look's output and the running programs mean."""
    said, _, rest = ended.output.partition(f"{_STATUS} ")
    answered = re.match(r"\d+", rest)
    operator = any(_of_operator(program) for program in programs)
    operator = operator or f"{_ROOT} 0" in rest or f"{_PODS} 0" in rest
    if answered is None:
        why = f"nvidia-smi did not answer within {_LOOK_TIMEOUT_S:g} s" if ended.exit_code is None else said.strip()
        return GuestEvidence(error=why or "the guest's shell said nothing", gpu_operator=operator)
    status = int(answered[0])
    if status == _NO_COMMAND:
        return GuestEvidence(error="nvidia-smi is not installed", driver_installed=False, gpu_operator=operator)
    lines = [line for line in said.splitlines() if line.strip()]
    gpus = [gpu for line in lines if (gpu := _gpu(line)) is not None]
    if status != 0 or len(gpus) != len(lines) or not gpus:
        words = " ".join(line.strip() for line in lines if _gpu(line) is None)
        error = words[:1000] or f"it ended with status {status} and said nothing"
        return GuestEvidence(gpus=tuple(gpus), error=error, driver_installed=True, gpu_operator=operator)
    return GuestEvidence(gpus=tuple(gpus), driver_installed=True, gpu_operator=operator)


def _of_operator(program: GuestProgram) -> bool:
    """The driver container's own program; programs that merely name it in their arguments are not."""
    if program.ended:
        return False
    return program.name in ("nvidia-driver", "nvidia-driver-daemonset") or bool(
        _OPERATOR_COMMAND.search(program.command)
    )


def _gpu(line: str) -> GuestGpu | None:
    fields = [field.strip() for field in line.split(",")]
    if len(fields) != 4 or not fields[1].startswith("GPU-"):
        return None
    memory = int(fields[3]) if fields[3].isdigit() else 0
    return GuestGpu(name=fields[0], uuid=fields[1], driver_version=fields[2], memory_mib=memory)
