"""`esxcli software`: packages, and the acceptance level, in ESXi's words."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from simulator.laws import packages
from simulator.laws.cli import CliFault, Command, Parameter, Row
from simulator.laws.packages import Changed, PackageError
from simulator.world import Host, Vib, World

__all__ = ["SOFTWARE_COMMANDS"]

Arguments = dict[str, str]


def _row(vib: Vib) -> Row:
    return {
        "AcceptanceLevel": vib.acceptance_level,
        "CreationDate": vib.install_date,
        "ID": vib.full_id,
        "InstallDate": vib.install_date,
        "Name": vib.name,
        "Status": "",
        "Vendor": vib.vendor,
        "Version": vib.version,
    }


def _list(world: World, host: Host, arguments: Arguments) -> list[Row]:
    return [_row(vib) for vib in host.vibs]


def _get(world: World, host: Host, arguments: Arguments) -> list[Row]:
    wanted = arguments.get("vibname")
    found = [vib for vib in host.vibs if wanted is None or wanted in (vib.name, f"{vib.name}:{vib.version}")]
    if not found:
        raise CliFault(f"[NoMatchError] No VIB matching VIB search specification '{wanted}'.")
    return [
        _row(vib)
        | {
            "Description": vib.summary,
            "LiveInstallAllowed": False,
            "LiveRemoveAllowed": False,
            "MaintenanceModeRequired": True,
            "Summary": vib.summary,
            "Type": "bootbank",
        }
        for vib in found
    ]


def _flag(arguments: Arguments, name: str) -> bool:
    return arguments.get(name, "false").casefold() == "true"


async def _told(work: Awaitable[Changed], dry_run: bool) -> Row:
    try:
        changed = await work
    except PackageError as refused:
        raise CliFault(str(refused)) from refused
    message = "Operation finished successfully."
    if dry_run:
        message = "Dryrun only, host not changed. The following installers will be applied: [BootBankInstaller]"
    elif changed.reboot_required:
        message = (
            "The update completed successfully, but the system needs to be rebooted for the changes to be effective."
        )
    return {
        "Message": message,
        "RebootRequired": changed.reboot_required,
        "VIBsInstalled": ", ".join(vib.full_id for vib in changed.installed),
        "VIBsRemoved": ", ".join(vib.full_id for vib in changed.removed),
        "VIBsSkipped": ", ".join(vib.full_id for vib in changed.skipped),
    }


def _installing(update_only: bool) -> Callable[[World, Host, Arguments], Awaitable[Row]]:
    async def run(world: World, host: Host, arguments: Arguments) -> Row:
        places = [arguments[name] for name in ("depot", "viburl") if arguments.get(name)]
        if not places:
            raise CliFault("Must specify at least one of --depot and --viburl")
        _refuse_bypass(host, arguments)
        names = [name for name in arguments.get("vibname", "").split(",") if name]
        try:
            vibs = packages.found_at(places)
        except PackageError as missing:
            raise CliFault(str(missing)) from missing
        chosen = [vib for vib in vibs if not names or vib.name in names]
        if not chosen:
            raise CliFault(f"[NoMatchError] No VIB matching VIB search specification '{names[0]}'.")
        dry_run = _flag(arguments, "dryrun")
        work = packages.install(
            world,
            host,
            chosen,
            update_only=update_only,
            no_sig_check=_flag(arguments, "nosigcheck"),
            force=_flag(arguments, "force"),
            dry_run=dry_run,
        )
        return await _told(work, dry_run)

    return run


def _refuse_bypass(host: Host, arguments: Arguments) -> None:
    """`--maintenance-mode` tells the installer to pretend that the host is in maintenance: it helps nobody here."""
    if _flag(arguments, "maintenancemode") and not host.in_maintenance:
        raise CliFault("[MaintenanceModeError] The host is not in maintenance mode.")


async def _remove(world: World, host: Host, arguments: Arguments) -> Row:
    names = [name for name in arguments.get("vibname", "").split(",") if name]
    if not names:
        raise CliFault("Must specify --vibname")
    dry_run = _flag(arguments, "dryrun")
    return await _told(packages.remove(world, host, names, dry_run=dry_run), dry_run)


def _acceptance_get(world: World, host: Host, arguments: Arguments) -> str:
    return host.acceptance_level


def _acceptance_set(world: World, host: Host, arguments: Arguments) -> str:
    level = arguments.get("level")
    if level is None:
        raise CliFault("Must specify --level")
    try:
        packages.set_acceptance(world, host, level)
    except PackageError as refused:
        raise CliFault(str(refused)) from refused
    return f"Host acceptance level changed to '{level}'."


_DEPOT = Parameter("depot", ("--depot", "-d"), "URL or path of a depot's index.xml or offline bundle.")
_DRY_RUN = Parameter("dryrun", ("--dry-run",), "Only say what would be done.", flag=True)
_FORCE = Parameter("force", ("--force", "-f"), "Skip the checks of dependencies and acceptance level.", flag=True)
_MAINTENANCE = Parameter("maintenancemode", ("--maintenance-mode",), "Pretend maintenance mode.", flag=True)
_NO_SIGNATURE = Parameter("nosigcheck", ("--no-sig-check",), "Skip the signature check.", flag=True)
_NAME = Parameter("vibname", ("--vibname", "-n"), "Name, or name:version.")
_URL = Parameter("viburl", ("--viburl", "-v"), "URL or path of a VIB.")
_INSTALL = (_DEPOT, _DRY_RUN, _FORCE, _MAINTENANCE, _NO_SIGNATURE, _NAME, _URL)

SOFTWARE_COMMANDS = (
    Command("software.vib.list", "List installed VIB packages.", "VIBExt", _list),
    Command("software.vib.get", "Show details of installed VIB packages.", "VIBExt", _get, (_NAME,)),
    Command("software.vib.install", "Install VIB packages.", "InstallationResult", _installing(False), _INSTALL),
    Command("software.vib.update", "Update installed VIB packages.", "InstallationResult", _installing(True), _INSTALL),
    Command(
        "software.vib.remove", "Remove VIB packages.", "InstallationResult", _remove,
        (_DRY_RUN, _FORCE, _MAINTENANCE, _NO_SIGNATURE, _NAME),
    ),
    Command("software.acceptance.get", "Get the host acceptance level.", "string", _acceptance_get),
    Command(
        "software.acceptance.set", "Set the host acceptance level.", "string", _acceptance_set,
        (Parameter("level", ("--level",), "The level."),),
    ),
)  # fmt: skip
