"""A host's packages as vSphere shows them: the patch manager and the image configuration manager."""

from __future__ import annotations

from collections.abc import Awaitable
from typing import Any
from xml.sax.saxutils import escape

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, method
from simulator.entities.host_manager import HostManager
from simulator.laws import packages
from simulator.laws.packages import Changed, PackageError
from simulator.laws.passthrough import require_connected
from simulator.world import Host, Vib

__all__ = ["API_LEVELS", "ImageConfigManager", "PatchManager"]

API_LEVELS = {
    "VMwareCertified": "vmware_certified",
    "VMwareAccepted": "vmware_accepted",
    "PartnerSupported": "partner",
    "CommunitySupported": "community",
}


class PatchManager(HostManager):
    """Patching by baselines. ESX 9 does not offer it any more."""

    vim_type = vim.host.PatchManager
    prefix = "ha-host-patch-manager"

    def _start(self, name: str, work: Awaitable[Any]) -> Managed:
        return self.registry.tasks.start(
            self.registry.objects[self.host.moid], f"host.PatchManager.{name}", self._answered(work)
        )

    async def _answered(self, work: Awaitable[Any]) -> Any:
        """Errors of the installer as vSphere's faults; `PlatformConfigFault` carries its words."""
        try:
            return await work
        except PackageError as refused:
            if refused.kind == "MaintenanceModeError":
                raise vim.fault.InvalidState(msg=str(refused)) from refused
            if refused.kind == "LockingError":
                raise vim.fault.TaskInProgress(msg=str(refused)) from refused
            raise vim.fault.PlatformConfigFault(
                text=str(refused), msg=f"An error occurred during host configuration: {refused}"
            ) from refused

    def _require_baselines(self) -> None:
        if int(self.host.version.partition(".")[0]) >= 9:
            raise vmodl.fault.NotSupported(
                msg=f"Patching by baselines is no longer supported on ESX {self.host.version}: use images."
            )

    def _vibs(self, *places: list[str] | None) -> list[Vib]:
        named = [place for group in places for place in group or []]
        if not named:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="metaUrls", msg="One of metaUrls, bundleUrls and vibUrls must name a package."
            )
        try:
            return packages.found_at(named)
        except PackageError as missing:
            raise vim.fault.PlatformConfigFault(text=str(missing), msg=str(missing)) from missing

    @method("InstallHostPatchV2_Task")
    def install(
        self,
        call: Call,
        metaUrls: list[str] | None = None,
        bundleUrls: list[str] | None = None,
        vibUrls: list[str] | None = None,
        spec: Any = None,
    ) -> Managed:
        self._require_baselines()
        options = (spec.cmdOption or "") if spec is not None else ""

        async def installed() -> Any:
            changed = await packages.install(
                self.world,
                self.host,
                self._vibs(metaUrls, bundleUrls, vibUrls),
                no_sig_check="--no-sig-check" in options,
                force="--force" in options,
            )
            return _result(self.host, changed)

        return self._start("InstallV2", installed())

    @method("ScanHostPatchV2_Task")
    def scan(
        self, call: Call, metaUrls: list[str] | None = None, bundleUrls: list[str] | None = None, spec: Any = None
    ) -> Managed:
        self._require_baselines()
        return self._start("ScanV2", self._looked_at(metaUrls, bundleUrls, strict=False))

    @method("CheckHostPatch_Task")
    def check(
        self, call: Call, metaUrls: list[str] | None = None, bundleUrls: list[str] | None = None, spec: Any = None
    ) -> Managed:
        self._require_baselines()
        return self._start("Check", self._looked_at(metaUrls, bundleUrls, strict=True))

    async def _looked_at(self, metas: list[str] | None, bundles: list[str] | None, *, strict: bool) -> Any:
        """What an installation would do; `strict` fails where that would, otherwise the reason is in the result."""
        require_connected(self.world, self.host)
        await self.world.sleep(5)
        statuses = []
        for vib in self._vibs(metas, bundles):
            reason = []
            try:
                packages.check(self.host, [vib])
            except PackageError as refused:
                if strict:
                    raise
                reason = [str(refused)]
            statuses.append(_status(vib, installed=vib in self.host.vibs, reason=reason))
        return vim.host.PatchManager.Result(version="1.40", status=statuses, xmlResult=_xml("check", ()))

    @method("UninstallHostPatch_Task")
    def uninstall(self, call: Call, bulletinIds: list[str] | None = None, spec: Any = None) -> Managed:
        self._require_baselines()
        names = [
            vib.name for vib in self.host.vibs if vib.component and {vib.component, vib.name} & set(bulletinIds or ())
        ]

        async def uninstalled() -> Any:
            if not names:
                raise PackageError("NoMatchError", f"No bulletin {', '.join(bulletinIds or ())} is installed.")
            return _result(self.host, await packages.remove(self.world, self.host, names))

        return self._start("Uninstall", uninstalled())

    @method("QueryHostPatch_Task")
    def query(self, call: Call, spec: Any = None) -> Managed:
        self._require_baselines()

        async def queried() -> Any:
            return vim.host.PatchManager.Result(
                version="1.40",
                status=[_status(vib, installed=True, reason=[]) for vib in self.host.vibs],
                xmlResult=_xml("query", ()),
            )

        return self._start("Query", queried())


def _result(host: Host, changed: Changed) -> Any:
    statuses = [_status(vib, installed=True, reason=[]) for vib in (*changed.installed, *changed.skipped)]
    return vim.host.PatchManager.Result(
        version="1.40", status=statuses, xmlResult=_xml("update", (vib.full_id for vib in changed.installed))
    )


def _status(vib: Vib, *, installed: bool, reason: list[str]) -> Any:
    return vim.host.PatchManager.Status(
        id=vib.component or vib.name,
        applicable=not reason,
        reason=["otherreason"] if reason else [],
        integrity="validated",
        installed=installed,
        installState=["hostRebooted"] if installed else ["missing"],
        restartRequired=True,
        reconnectRequired=True,
        vmOffRequired=True,
    )


def _xml(operation: str, installed: Any) -> str:
    names = "".join(f"<vib>{escape(name)}</vib>" for name in installed)
    return (
        f'<esxupdate-response version="1.50"><{operation}>{names}</{operation}>'
        '<error errorClass="NoError"><errorCode>0</errorCode></error></esxupdate-response>'
    )


class ImageConfigManager(HostManager):
    vim_type = vim.host.ImageConfigManager
    prefix = "imageConfigManager"

    @method("HostImageConfigGetAcceptance")
    def get_acceptance(self, call: Call) -> str:
        require_connected(self.world, self.host)
        return API_LEVELS[self.host.acceptance_level]

    @method("UpdateHostImageAcceptanceLevel")
    def set_acceptance(self, call: Call, newAcceptanceLevel: str) -> None:
        require_connected(self.world, self.host)
        levels = {api: level for level, api in API_LEVELS.items()}
        if newAcceptanceLevel not in levels:
            raise vmodl.fault.InvalidArgument(
                invalidProperty="newAcceptanceLevel", msg=f"The level is one of {', '.join(levels)}."
            )
        try:
            packages.set_acceptance(self.world, self.host, levels[newAcceptanceLevel])
        except PackageError as refused:
            raise vim.fault.HostConfigFault(msg=str(refused)) from refused

    @method("HostImageConfigGetProfile")
    def get_profile(self, call: Call) -> Any:
        return vim.host.ImageConfigManager.ImageProfileSummary(
            name=f"ESXi-{self.host.version}-{self.host.build}-standard", vendor="VMware, Inc."
        )

    @method("fetchSoftwarePackages")
    def fetch_software_packages(self, call: Call) -> list[Any]:
        require_connected(self.world, self.host)
        return [
            vim.host.SoftwarePackage(
                name=vib.name,
                version=vib.version,
                type="bootbank",
                vendor=vib.vendor,
                acceptanceLevel=API_LEVELS[vib.acceptance_level],
                summary=vib.summary,
                description=vib.summary,
                maintenanceModeRequired=True,
                capability=vim.host.SoftwarePackage.Capability(
                    liveInstallAllowed=False, liveRemoveAllowed=False, statelessReady=True, overlay=False
                ),
            )
            for vib in self.host.vibs
        ]
