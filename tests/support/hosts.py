"""Host states for tests of pure planners: one plain GPU server, changed where a test needs it."""

from datetime import UTC, datetime
from typing import Any

from contracts.host import BootDevice, ClusterRef, GraphicsDevice, HostRef, HostState, PciFunction
from contracts.profiles import GpuMode, GpuWanted, Profile

__all__ = ["BOOTED", "TRAINING", "a100", "host"]

BOOTED = datetime(2026, 1, 1, tzinfo=UTC)
TRAINING = Profile(name="training", gpus=(GpuWanted(match="10de:20f1", mode=GpuMode.PASSTHROUGH, label="Training"),))


def a100(sbdf: str = "0000:81:00.0", **changes: Any) -> PciFunction:
    """An NVIDIA A100 in default mode, behind a bridge of its own."""
    fields: dict[str, Any] = {
        "sbdf": sbdf,
        "vendor_device": "10de:20f1",
        "class_id": 0x0302,
        "name": "NVIDIA A100 PCIe 40GB",
        "parent_bridge": sbdf.replace("00.0", "1f.0"),
        "passthru_capable": True,
        "dependent_device": sbdf,
    }
    return PciFunction.model_validate(fields | changes)


def host(*gpus: PciFunction, **changes: Any) -> HostState:
    """A connected host of a DRS cluster with these GPUs (default: one A100), a boot disk's adapter and a NIC."""
    gpus = gpus or (a100(),)
    own = (
        PciFunction(
            sbdf="0000:01:00.0",
            vendor_device="8086:1572",
            class_id=0x0200,
            name="Intel X710",
            used_by_esxi="uplink vmnic0",
        ),
        PciFunction(
            sbdf="0000:02:00.0",
            vendor_device="1000:005d",
            class_id=0x0104,
            name="MegaRAID",
            used_by_esxi="storage adapter vmhba0",
        ),
    )
    fields: dict[str, Any] = {
        "ref": HostRef(vcenter="vc", key="4c4c4544-0001", moid="host-1", name="esx-01"),
        "cluster": ClusterRef(moid="domain-c1", name="gpu-01", drs_enabled=True, drs_fully_automated=True),
        "connection_state": "connected",
        "power_state": "poweredOn",
        "in_maintenance": False,
        "boot_time": BOOTED,
        "version": "8.0.2",
        "api_version": "8.0.2.0",
        "pci": (*own, *gpus),
        "graphics": tuple(
            GraphicsDevice(sbdf=gpu.sbdf, name=gpu.name, active_type="basic", configured_type="shared") for gpu in gpus
        ),
        "kernel_no_iommu": False,
        "boot_device": BootDevice(name="naa.600508b1", is_usb=False),
    }
    return HostState.model_validate(fields | changes)
