"""A GPU VM as it is asked for. People write it (YAML, CLI, chat), so unknown keys are errors, and all are told at once.

The device backings are those of `vim.vm.device.VirtualPCIPassthrough`.
"""

import re
from enum import StrEnum
from ipaddress import IPv4Interface
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from contracts.profiles import Strict, pci_address, vendor_device

__all__ = [
    "CloudInit",
    "Customization",
    "DriverKind",
    "DriverPackage",
    "DriverPolicy",
    "DynamicGpu",
    "GpuWish",
    "GuestDriver",
    "StaticGpu",
    "StaticIp",
    "VgpuGpu",
    "VmRequest",
    "VmSource",
    "VmWish",
]


class DynamicGpu(Strict):
    """Dynamic DirectPath I/O (`DynamicBackingInfo`): any free whole GPU of a kind, with a label if one is named."""

    kind: Literal["dynamic"] = "dynamic"
    match: Annotated[str, AfterValidator(vendor_device)] | None = None
    """PCI vendor:device, e.g. `10de:20f1`."""
    model: str | None = None
    """Or the model's name, e.g. `A100`, as `planning.gpu_models` knows it: every vendor:device of that model fits."""
    label: str | None = Field(default=None, min_length=1, max_length=32)
    """`customLabel`: only GPUs whose hardware label is this one."""
    count: int = Field(default=1, ge=1, le=64)

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.match is None) == (self.model is None):
            raise ValueError("name the GPU by 'match' (vendor:device) or by 'model', and by one of them only")
        return self


class StaticGpu(Strict):
    """DirectPath I/O (`DeviceBackingInfo`): that very device of that very host. HA cannot restart such a VM."""

    kind: Literal["static"] = "static"
    host: str = Field(min_length=1)
    """Name of the host."""
    sbdf: Annotated[str, AfterValidator(pci_address)]


class VgpuGpu(Strict):
    """NVIDIA vGPU (`VmiopBackingInfo`): a share of a card, by profile name, e.g. `nvidia_a40-24c`."""

    kind: Literal["vgpu"] = "vgpu"
    profile: str = Field(min_length=1, pattern=r"^[A-Za-z0-9_-]+$")
    count: int = Field(default=1, ge=1, le=64)


GpuWish = Annotated[DynamicGpu | StaticGpu | VgpuGpu, Field(discriminator="kind")]


class VmSource(Strict):
    """What the VM is made from: exactly one of a template, a content-library item, or nothing (an empty VM)."""

    template: str | None = Field(default=None, min_length=1)
    """Name of a VM template; its own GPU devices are left out of the copy."""
    library_item: str | None = Field(default=None, pattern=r"^[^/]+/[^/]+$")
    """`library/item`: an OVF or VM template item of a content library."""
    guest_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_]+$")
    """For an empty VM: the guest OS identifier, e.g. `ubuntu64Guest`."""
    disk_gib: int | None = Field(default=None, ge=1, le=62 * 1024)
    """For an empty VM: the size of its disk, thin provisioned."""

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        given = [self.template, self.library_item, self.guest_id]
        if sum(source is not None for source in given) != 1:
            raise ValueError("give exactly one of 'template', 'library_item' and 'guest_id' (an empty VM)")
        if self.disk_gib is not None and self.guest_id is None:
            raise ValueError("'disk_gib' is for an empty VM ('guest_id'); a copy keeps the disks of its source")
        return self


class DriverPolicy(StrEnum):
    """What to do about the NVIDIA driver in the guest."""

    NONE = "none"
    VERIFY = "verify"
    """`nvidia-smi` must show the GPUs; what it does not is told, and nothing is installed."""
    INSTALL = "install"
    """Install the package where `nvidia-smi` does not show the GPUs."""


class DriverKind(StrEnum):
    """NVIDIA's guest drivers; the file name of the second ends in `-grid.run`."""

    DATA_CENTER = "data-center"
    """For whole GPUs only; in a vGPU VM it fails with a `libvgpu.so` mismatch."""
    GRID = "grid"
    """The vGPU guest driver; it works with whole GPUs too."""


class DriverPackage(Strict):
    """A `NVIDIA-Linux-….run` file."""

    kind: DriverKind
    version: str = Field(pattern=r"^\d+(\.\d+){1,3}$")
    url: str = Field(pattern=r"^https://")
    """Where the service fetches it from."""
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")


class GuestDriver(Strict):
    """The guest's driver and who logs in for it."""

    policy: DriverPolicy = DriverPolicy.NONE
    credentials: str | None = Field(default=None, min_length=1)
    """Name of an entry of `guest_credentials` in the service's configuration; the secret itself never travels."""
    package: DriverPackage | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if self.policy is not DriverPolicy.NONE and self.credentials is None:
            raise ValueError(f"policy {self.policy} logs in to the guest: name its 'credentials'")
        if (self.policy is DriverPolicy.INSTALL) != (self.package is not None):
            raise ValueError("'package' goes with policy install, and policy install needs it")
        return self


def _interface(value: str) -> str:
    try:
        interface = IPv4Interface(value)
    except ValueError as error:
        raise ValueError(f"{value!r} is not an address with its prefix; write it like '10.0.0.7/24'") from error
    if interface.network.prefixlen == 32:
        raise ValueError(f"{value!r} has no network; write it like '10.0.0.7/24'")
    return value


class StaticIp(Strict):
    """A fixed IPv4 address of the first network adapter."""

    address: Annotated[str, AfterValidator(_interface)]
    """With its prefix: `10.0.0.7/24`."""
    gateway: str | None = None
    dns: tuple[str, ...] = ()


class CloudInit(Strict):
    """cloud-init's VMware datasource (`guestinfo.metadata`, `guestinfo.userdata`)."""

    user_data: str = Field(min_length=1)
    """Name of an entry of `cloud_init` in the service's configuration: such files hold keys, so they do not travel."""


class Customization(Strict):
    """Who the guest is: by vSphere's guest customisation, or by cloud-init where it is given."""

    host_name: str | None = Field(default=None, pattern=r"^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$")
    """None: the VM's name."""
    domain: str = "localdomain"
    ip: StaticIp | None = None
    """None: DHCP."""
    cloud_init: CloudInit | None = None


def _vm_name(value: str) -> str:
    if not re.fullmatch(r"[^\x00-\x1f%/\\]{1,80}", value) or value != value.strip():
        raise ValueError(f"{value!r} is no VM name: 1 to 80 characters, without '/', '\\', '%' and outer spaces")
    return value


class VmWish(Strict):
    """One GPU VM, whichever vCenter is to have it. Names are as vCenter shows them; a path (`folder/sub`) tells equal
    ones apart."""

    name: Annotated[str, AfterValidator(_vm_name)]
    cluster: str = Field(min_length=1)
    source: VmSource
    folder: str | None = None
    """None: the datacenter's VM folder."""
    datastore: str | None = None
    """None: the datastore of the cluster with the most free space that its GPU hosts share."""
    network: str | None = None
    """None: as the source has it; an empty VM gets no adapter."""
    resource_pool: str | None = None
    """None: the cluster's root pool."""
    cpus: int = Field(default=4, ge=1, le=768)
    memory_mib: int = Field(default=16384, ge=1024, le=24 * 2**20, multiple_of=4)
    gpus: tuple[GpuWish, ...] = Field(min_length=1)
    driver: GuestDriver = GuestDriver()
    customization: Customization | None = None
    keep_on_failure: bool = False
    """Leave a VM that could not be made right for inspection instead of removing it."""

    @model_validator(mode="after")
    def _one_family(self) -> Self:
        if len({wish.kind == "vgpu" for wish in self.gpus}) == 2:
            raise ValueError("gpus: a VM never has a whole GPU and a vGPU at once; ask for one or the other")
        static = [wish for wish in self.gpus if wish.kind == "static"]
        if len({(wish.host, wish.sbdf) for wish in static}) != len(static):
            raise ValueError("gpus: the same device is named twice; such a VM does not boot")
        if len({wish.host for wish in static}) > 1:
            raise ValueError("gpus: static devices of several hosts cannot be in one VM")
        if self.source.guest_id is not None and self.driver.policy is not DriverPolicy.NONE:
            raise ValueError("driver: an empty VM has no guest yet; ask for policy none")
        return self

    @property
    def vgpu(self) -> bool:
        """It asks for shares of cards, not for whole ones."""
        return any(wish.kind == "vgpu" for wish in self.gpus)


class VmRequest(VmWish):
    """One GPU VM of one vCenter."""

    vcenter: str = Field(min_length=1)
    """The vCenter's name in the configuration."""
