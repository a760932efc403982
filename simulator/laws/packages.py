"""Packages of a host: installing, replacing and removing them, and the acceptance level that guards them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from simulator.depots import DepotNotFound, package_at
from simulator.laws.passthrough import require_connected
from simulator.world import Host, Vib, World

__all__ = ["LEVELS", "Changed", "PackageError", "check", "found_at", "install", "remove", "set_acceptance"]

INSTALL_SECONDS = 60.0
REMOVE_SECONDS = 30.0
LEVELS = ("VMwareCertified", "VMwareAccepted", "PartnerSupported", "CommunitySupported")
"""The most trusted first: a host takes packages at its own level and above."""


class PackageError(Exception):
    """esxcli's error; `kind` is its class (`MaintenanceModeError`)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"[{kind}] {message}")
        self.kind = kind


class Changed:
    """What an operation did to the packages of a host."""

    def __init__(self, installed: Iterable[Vib] = (), removed: Iterable[Vib] = (), skipped: Iterable[Vib] = ()) -> None:
        self.installed, self.removed, self.skipped = tuple(installed), tuple(removed), tuple(skipped)

    @property
    def reboot_required(self) -> bool:
        return bool(self.installed or self.removed)


def found_at(places: Iterable[str]) -> list[Vib]:
    """The packages at URLs or datastore paths; raises `PackageError` for a place that has none."""
    try:
        return [package_at(place).vib for place in places]
    except DepotNotFound as missing:
        raise PackageError("MetadataDownloadError", str(missing)) from missing


def check(host: Host, vibs: list[Vib], *, no_sig_check: bool = False, force: bool = False) -> None:
    """Raises `PackageError` for the first reason why the host does not take these packages.

    The reasons: another ESXi release, an acceptance level below the host's, no signature under secure boot, where
    nothing can skip the check, and two vGPU Managers at once. `force` takes away the first two and the last.
    """
    for vib in vibs:
        if host.secure_boot and (not vib.signed or no_sig_check or force):
            if not vib.signed:
                raise PackageError(
                    "InstallationError",
                    f"VIB {vib.full_id} cannot be verified: UEFI Secure Boot is enabled on the host, "
                    "which would not boot with an unsigned VIB.",
                )
            raise PackageError(
                "InstallationError", "UEFI Secure Boot is enabled: the signature check cannot be skipped."
            )
        if force:
            continue
        if vib.platform and vib.platform.partition(".")[0] != host.version.partition(".")[0]:
            raise PackageError(
                "DependencyError",
                f"VIB {vib.full_id} requires esx-version {vib.platform}, but the requirement cannot be satisfied "
                f"within the ImageProfile (ESXi {host.version}).",
            )
        if LEVELS.index(vib.acceptance_level) > LEVELS.index(host.acceptance_level):
            raise PackageError(
                "AcceptanceConfigError",
                f"VIB {vib.full_id}'s acceptance level is {vib.acceptance_level}, which is not compliant with the "
                f"ImageProfile acceptance level {host.acceptance_level}. To change the host acceptance level, use "
                "the 'esxcli software acceptance set' command.",
            )
        for other in host.vibs:
            if vib.provides_vgpu and other.provides_vgpu and other.name != vib.name:
                raise PackageError("DependencyError", f"VIB {vib.full_id} conflicts with {other.full_id}.")


@asynccontextmanager
async def _image(
    world: World, host: Host, removing: list[Vib], installing: list[Vib], seconds: float
) -> AsyncIterator[None]:
    """The host's image after `seconds`: one change at a time, in maintenance mode, with the host up all the while."""
    if not host.in_maintenance and (removing or installing):
        raise PackageError(
            "MaintenanceModeError",
            f"MaintenanceMode is required to remove: [{', '.join(vib.full_id for vib in removing)}]; "
            f"install: [{', '.join(vib.full_id for vib in installing)}].",
        )
    if host.image_busy:
        raise PackageError("LockingError", "Another process is updating the host image.")
    host.image_busy = True
    boot_time = host.boot_time
    try:
        await world.sleep(seconds)
        require_connected(world, host)
        if host.boot_time != boot_time:
            raise PackageError("InstallationError", "The host was restarted while its image was updated.")
        yield
    finally:
        host.image_busy = False


async def install(
    world: World, host: Host, vibs: list[Vib], *, update_only: bool = False, no_sig_check: bool = False,
    force: bool = False, dry_run: bool = False,
) -> Changed:  # fmt: skip
    """Put packages into the image, each in place of the version that is there; they run after the next boot.

    `update_only` installs only what is newer than an installed version. What is installed already is skipped.
    Raises `PackageError`, and `HostNotConnected` when the host is lost meanwhile.
    """
    require_connected(world, host)
    installed = {vib.name: vib for vib in host.vibs}
    wanted = [vib for vib in vibs if installed.get(vib.name) != vib]
    if update_only:
        wanted = [vib for vib in wanted if vib.name in installed and _number(vib) > _number(installed[vib.name])]
    skipped = [vib for vib in vibs if vib not in wanted]
    check(host, wanted, no_sig_check=no_sig_check, force=force)
    replaced = [installed[vib.name] for vib in wanted if vib.name in installed]
    changed = Changed(wanted, replaced, skipped)
    if dry_run or not wanted:
        return changed
    async with _image(world, host, replaced, wanted, INSTALL_SECONDS):
        host.vibs = [vib for vib in host.vibs if vib not in replaced] + wanted
        host.ledger += [f"install {vib.full_id}" for vib in wanted]
    world.changed(host)
    return changed


def _number(vib: Vib) -> list[int]:
    return [int(part) for part in vib.version.partition("-")[0].split(".") if part.isdigit()]


async def remove(world: World, host: Host, names: list[str], *, dry_run: bool = False) -> Changed:
    """Take packages out of the image; what they run goes on until the next boot. Raises as `install` does."""
    require_connected(world, host)
    doomed = [vib for vib in host.vibs if vib.name in names or f"{vib.name}:{vib.version}" in names]
    for name in names:
        if not any(name in (vib.name, f"{vib.name}:{vib.version}") for vib in doomed):
            raise PackageError("NoMatchError", f"No VIB matching VIB search specification '{name}'.")
    needed = [vib for vib in doomed if vib.name.startswith("esx-")]
    if needed:
        raise PackageError("InstallationError", f"VIB {needed[0].full_id} is part of ESXi and cannot be removed.")
    if dry_run:
        return Changed(removed=doomed)
    async with _image(world, host, doomed, [], REMOVE_SECONDS):
        host.vibs = [vib for vib in host.vibs if vib not in doomed]
        host.ledger += [f"remove {vib.full_id}" for vib in doomed]
    world.changed(host)
    return Changed(removed=doomed)


def set_acceptance(world: World, host: Host, level: str) -> None:
    """Change the host's acceptance level; raises `PackageError` while a package is below it."""
    if level not in LEVELS:
        raise PackageError("AcceptanceConfigError", f"{level!r} is no acceptance level: use {', '.join(LEVELS)}.")
    if host.secure_boot and level == "CommunitySupported":
        raise PackageError(
            "AcceptanceConfigError", "UEFI Secure Boot is enabled: the level cannot be changed to community."
        )
    for vib in host.vibs:
        if LEVELS.index(vib.acceptance_level) > LEVELS.index(level):
            raise PackageError(
                "AcceptanceConfigError",
                f"Unable to set acceptance level to {level}: installed VIB {vib.full_id} is {vib.acceptance_level}.",
            )
    host.acceptance_level = level
    world.changed(host)
