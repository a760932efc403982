"""nvidia-smi on an ESXi host over SSH, for MIG, which vSphere has no call for.

The host key is verified against an OpenSSH `known_hosts` file of the configuration. vCenter does not tell host keys
(`/host/ssh_host_rsa_key_pub` asks for the host's own login), and trust on first use is no trust.
"""

import asyncio
import csv
import io
import re
from dataclasses import dataclass

import asyncssh

from contracts.errors import BadRequest, NeedsHuman, NotSupported, Unreachable
from vsphere.settings import SshSettings

__all__ = ["GpuMig", "parse_mig", "read_mig", "set_mig"]

_QUERY = "nvidia-smi --query-gpu=pci.bus_id,mig.mode.current,mig.mode.pending --format=csv,noheader"
_CONNECT_S = 30
_COMMAND_S = 120


@dataclass(frozen=True)
class GpuMig:
    """MIG mode of one GPU. None: this kind of GPU has no MIG."""

    sbdf: str
    current: bool | None
    pending: bool | None
    """After the next reset or reboot."""


def read_mig(settings: SshSettings, address: str, port: int = 22) -> tuple[GpuMig, ...]:
    """MIG mode of every GPU that the vGPU Manager sees: GPUs in passthrough are not among them. Blocking.

    Raises `BadRequest` (host key, login), `NotSupported` (no nvidia-smi: the vGPU Manager is not installed),
    `NeedsHuman` (the driver does not run), `Unreachable`.
    """
    return parse_mig(_run(settings, address, port, _QUERY))


def set_mig(settings: SshSettings, address: str, sbdf: str, enabled: bool, port: int = 22) -> bool:
    """Switch MIG of one GPU on or off, with a reset of the card where it needs one; False when it is so. Blocking.

    Raises what `read_mig` raises, and `BadRequest` for a GPU that nvidia-smi does not show, `NotSupported` for one
    without MIG, `NeedsHuman` where somebody uses the GPU, so that the change waits for a reboot.
    """
    what = f"switch MIG {'on' if enabled else 'off'} for {sbdf} on {address}"
    seen = read_mig(settings, address, port)
    gpu = next((gpu for gpu in seen if gpu.sbdf == sbdf), None)
    if gpu is None:
        raise BadRequest(
            f"{what}: nvidia-smi shows {', '.join(gpu.sbdf for gpu in seen) or 'no GPU'}; one in passthrough is hidden"
        )
    if gpu.current is None:
        raise NotSupported(f"{what}: this GPU has no MIG")
    if gpu.current == enabled and gpu.pending in (None, enabled):
        return False
    if gpu.pending != enabled:
        _run(settings, address, port, f"nvidia-smi -i {sbdf} -mig {int(enabled)}")
    after = _find(settings, address, sbdf, port)
    if after is None or enabled not in (after.current, after.pending):
        raise NeedsHuman(f"{what}: nvidia-smi reported success, but shows {after}")
    if after.current != enabled:
        # Cards before Hopper take the mode over with their next reset.
        try:
            _run(settings, address, port, f"nvidia-smi -i {sbdf} --gpu-reset")
        except NeedsHuman as error:
            raise NeedsHuman(
                f"{what}: it waits for a reset of the card, which is refused: reboot the host. {error}"
            ) from (error)
        after = _find(settings, address, sbdf, port)
        if after is None or after.current != enabled:
            raise NeedsHuman(f"{what}: the card was reset, but nvidia-smi shows {after}: reboot the host")
    return True


def _find(settings: SshSettings, address: str, sbdf: str, port: int) -> GpuMig | None:
    return next((gpu for gpu in read_mig(settings, address, port) if gpu.sbdf == sbdf), None)


def parse_mig(text: str) -> tuple[GpuMig, ...]:
    """The rows of `nvidia-smi --query-gpu=pci.bus_id,mig.mode.current,mig.mode.pending --format=csv,noheader`."""
    modes = {"enabled": True, "disabled": False, "[n/a]": None, "n/a": None, "[not supported]": None}
    found = []
    for row in csv.reader(io.StringIO(text), skipinitialspace=True):
        if not row:
            continue
        match = re.fullmatch(r"(?:[0-9a-f]{4})?([0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])", row[0].strip().lower())
        values = [value.strip().lower() for value in row[1:]]
        if match is None or len(values) != 2 or not set(values) <= set(modes):
            raise NeedsHuman(f"nvidia-smi answered {', '.join(row)!r}, which is not a GPU with its MIG modes")
        found.append(GpuMig(match[1], modes[values[0]], modes[values[1]]))
    return tuple(found)


def _run(settings: SshSettings, address: str, port: int, command: str) -> str:
    where = f"`{command}` on {settings.user}@{address}"
    try:
        done = asyncio.run(_execute(settings, address, port, command))
    except asyncssh.HostKeyNotVerifiable as error:
        raise BadRequest(
            f"{where}: the host's key is not the one in {settings.known_hosts_file} ({error}); read the key at the "
            "host's console (`ssh-keygen -lf /etc/ssh/ssh_host_rsa_key.pub`), then add or correct the host's line there"
        ) from error
    except asyncssh.PermissionDenied as error:
        raise BadRequest(
            f"{where}: login with {settings.login_source} is refused ({error}); correct it, and in lockdown mode make "
            "the user an exception user"
        ) from error
    except (TimeoutError, OSError, asyncssh.Error) as error:
        raise Unreachable(f"{where}: no usable answer ({type(error).__name__}: {error})") from error
    said = (str(done.stdout or "") + str(done.stderr or "")).strip()
    if done.exit_status == 127 or "not found" in said:
        raise NotSupported(f"{where}: {said or 'no such command'}; the vGPU Manager is not installed on this host")
    if done.exit_status != 0:
        raise NeedsHuman(f"{where} ended with status {done.exit_status}: {said or 'no words'}")
    return str(done.stdout or "")


async def _execute(settings: SshSettings, address: str, port: int, command: str) -> asyncssh.SSHCompletedProcess:
    async with asyncssh.connect(
        address,
        port,
        username=settings.user,
        password=settings.password(),
        client_keys=[str(settings.private_key_file)] if settings.private_key_file else None,
        known_hosts=str(settings.known_hosts_file),
        connect_timeout=_CONNECT_S,
        login_timeout=_CONNECT_S,
        config=None,
        agent_path=None,
    ) as connection:
        return await connection.run(command, timeout=_COMMAND_S, check=False)
