"""Small incidents for planners: a cluster of GPU hosts and VMs, and events as vCenter tells them."""

from datetime import UTC, datetime, timedelta

from contracts.events import EventKey
from contracts.fleet import FleetCluster, FleetGpu, FleetHost, FleetVm, GpuFleet, VmGpu
from contracts.host import HostRef
from contracts.incidents import HostDown, IncidentEvent

A100, A40, A30 = "10de:20f1", "10de:2235", "10de:20b7"
FIRST, SECOND = "0000:81:00.0", "0000:e2:00.0"
PROFILE = "nvidia_a40-24c"
LOST = datetime(2026, 3, 1, 10, 0, tzinfo=UTC)
BOOTED = LOST - timedelta(days=3)
CLUSTER = FleetCluster(
    moid="domain-c1", name="gpu-01", drs_enabled=True, drs_automation="fullyAutomated", ha_enabled=True
)


def after(seconds: float) -> datetime:
    """So long after the loss."""
    return LOST + timedelta(seconds=seconds)


def ref(number: int) -> HostRef:
    return HostRef(vcenter="vc", key=f"key-{number}", moid=f"host-{number}", name=f"esx-{number}")


def down(number: int, seconds: float = 0) -> HostDown:
    return HostDown(host=ref(number), at=after(seconds))


def whole(sbdf: str = FIRST, pair: str = A100, label: str = "", *, framebuffer_mib: int = 40960) -> FleetGpu:
    """A GPU in passthrough."""
    return FleetGpu(
        sbdf=sbdf,
        vendor_device=pair,
        name=f"NVIDIA {pair}",
        framebuffer_mib=framebuffer_mib,
        passthru_active=True,
        label=label,
        active_type="direct",
    )


def shared(sbdf: str = FIRST, *, by: tuple[str, ...] = ()) -> FleetGpu:
    return FleetGpu(
        sbdf=sbdf,
        vendor_device=A40,
        name="NVIDIA A40",
        framebuffer_mib=49152,
        active_type="sharedDirect",
        vgpu_mode="sameSize",
        profiles=(PROFILE,),
        vm_moids=by,
    )


def host(number: int, *gpus: FleetGpu, **more: object) -> FleetHost:
    known: dict[str, object] = {
        "ref": ref(number),
        "cluster_moid": "domain-c1",
        "memory_mib": 65536,
        "cpus": 64,
        "gpus": gpus,
        "ha_state": "connectedToMaster",
        "power_state": "poweredOn",
    }
    return FleetHost.model_validate(known | more)


def dead(number: int, *gpus: FleetGpu, **more: object) -> FleetHost:
    """A host that HA knows to be down."""
    return host(number, *gpus, **({"connection_state": "notResponding", "ha_state": "hostDown"} | more))


def dynamic(pair: str = A100, label: str = "", on: str = "", key: int = 13000) -> VmGpu:
    return VmGpu(key=key, kind="dynamic", allowed=(pair,), label=label, assigned=on)


def static(sbdf: str = FIRST, *, on: bool = True) -> VmGpu:
    return VmGpu(key=13000, kind="static", sbdf=sbdf, assigned=sbdf if on else "")


def vgpu(on: str = "", key: int = 13000) -> VmGpu:
    return VmGpu(key=key, kind="vgpu", profile=PROFILE, assigned=on)


def vm(number: int, on: int, *gpus: VmGpu, **more: object) -> FleetVm:
    """A protected VM that runs on a host; `powered_on=False` for one that is off."""
    running = more.get("powered_on", True)
    known: dict[str, object] = {
        "moid": f"vm-{number}",
        "instance_uuid": f"uuid-{number}",
        "name": f"train-{number}",
        "host_moid": f"host-{on}",
        "powered_on": True,
        "power_state": "poweredOn" if running else "poweredOff",
        "memory_mib": 4096,
        "gpus": gpus or (dynamic(on=FIRST if running else ""),),
        "ha_protected": True,
        "tools_running": running,
        "boot_time": BOOTED if running else None,
        "mmio_gib": 512,
    }
    return FleetVm.model_validate(known | more)


def fleet(*hosts: FleetHost, vms: tuple[FleetVm, ...] = (), **cluster: object) -> GpuFleet:
    return GpuFleet(vcenter="vc", clusters=(CLUSTER.model_copy(update=cluster),), hosts=hosts, vms=vms, read_at=LOST)


def event(
    key: int, type_name: str, seconds: float = 0, *, on: int = 0, vm: int = 0, source: int = 0, **more: str
) -> IncidentEvent:
    """An event by its type, so long after the loss, with the numbers of its host, VM and source host."""
    known: dict[str, object] = {
        "key": EventKey(epoch="vc.0", key=key),
        "type_name": type_name,
        "created": after(seconds),
        "host_moid": f"host-{on}" if on else "",
        "host_name": f"esx-{on}" if on else "",
        "vm_moid": f"vm-{vm}" if vm else "",
        "vm_name": f"train-{vm}" if vm else "",
        "source_host_moid": f"host-{source}" if source else "",
        "source_host_name": f"esx-{source}" if source else "",
    }
    return IncidentEvent.model_validate(known | more)
