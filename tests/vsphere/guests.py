"""A simulated vCenter with guests in it, and gpuwright's own sessions there."""

from pathlib import Path
from typing import Any

from contracts.machine import VmRef
from contracts.vms import DriverKind, DriverPackage
from simulator.installers import INSTALLERS
from tests.simulator.vm_site import PASSWORD, ROOT, VmSite
from vsphere.sessions import SessionPool
from vsphere.settings import GuestCredentials, VCenterSettings

__all__ = ["DATA_CENTER", "GRID", "Guests"]

DATA_CENTER = "NVIDIA-Linux-x86_64-550.54.14.run"
GRID = "NVIDIA-Linux-x86_64-550.54.14-grid.run"


class Guests:
    """VMs with guests; `site` is what a person at the vCenter sees and does."""

    def __init__(self, site: VmSite, folder: Path) -> None:
        self.site = site
        self.simulator = site.simulator
        self.folder = folder
        (folder / "vcenter").write_text(self.simulator.password)
        self.pool = SessionPool(self.settings())
        self.root = self.credentials("root", PASSWORD)
        self._made: list[Any] = []

    def settings(self, host: str = "127.0.0.1", **changes: Any) -> VCenterSettings:
        fields: dict[str, Any] = {
            "name": "guests",
            "url": f"https://{host}:{self.simulator.port}",
            "user": self.simulator.user,
            "password_file": self.folder / "vcenter",
            "ca_file": self.simulator.ca_file,
        }
        return VCenterSettings(**{key: value for key, value in (fields | changes).items() if value is not None})

    def credentials(self, user: str, password: str) -> GuestCredentials:
        file = self.folder / f"guest-{user}-{len(list(self.folder.iterdir()))}"
        file.write_text(password + "\n")
        return GuestCredentials(user=user, password_file=file)

    def add(self, name: str, **more: Any) -> tuple[Any, VmRef]:
        """A running VM (in passthrough unless said otherwise) as pyVmomi's object and as a reference."""
        vm = self.site.add(name, **more)
        self._made.append(vm)
        ref = VmRef(vcenter="guests", instance_uuid=vm.config.instanceUuid, moid=vm._moId, name=name)
        return vm, ref

    def clean(self) -> None:
        """Remove the VMs that were added, and the faults."""
        self.simulator.clear_faults()
        while self._made:
            self.site.remove(self._made.pop())

    def package(self, name: str, **changes: Any) -> DriverPackage:
        """A driver that the simulated site offers."""
        found = INSTALLERS[name]
        kind = DriverKind.GRID if found.driver.kind == "grid" else DriverKind.DATA_CENTER
        url = f"https://{self.simulator.host}:{self.simulator.port}/simulator/drivers/{name}"
        fields = {"kind": kind, "version": found.driver.version, "url": url, "sha256": found.sha256}
        return DriverPackage(**(fields | changes))

    def left(self, vm: Any) -> list[str]:
        """What gpuwright's names are on in the guest's folders for temporary files."""
        _, said = self.site.run(vm, "ls /var/tmp; ls /tmp")
        return [line for line in said.splitlines() if "gpuwright" in line]

    def started(self, vm: Any, fragment: str) -> list[str]:
        """Command lines of the programs that were started through VMware Tools and hold `fragment`."""
        listed = self.site.ops.processManager.ListProcessesInGuest(vm, ROOT, None)
        return [each.cmdLine for each in listed if fragment in (each.cmdLine or "")]
