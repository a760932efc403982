"""The NVIDIA vGPU Manager on a host: is the wanted one there, and what forbids putting it there?"""

from contracts.host import HostState
from contracts.packages import DepotContent, InstalledVib, accepts, meets, platform_matches
from contracts.plan import Blocker, Risk, Step, StepKind
from contracts.profiles import Profile, VgpuManager

__all__ = ["image_in_doubt", "image_managed", "image_notes", "installed_managers", "manager_blockers", "manager_steps"]


def installed_managers(state: HostState) -> list[InstalledVib]:
    """NVIDIA's host drivers among the installed packages (`NVD-VGPU…` for graphics, `NVD-AIE…` for AI Enterprise)."""
    return [vib for vib in state.vibs or () if "vgpu" in vib.name.casefold() or "aie" in vib.name.casefold()]


def manager_steps(state: HostState, profile: Profile) -> list[Step]:
    """Install, upgrade or remove; nothing where it is as wanted."""
    wanted, managers = profile.vgpu_manager, installed_managers(state)
    if wanted is None or state.vibs is None:
        return []
    image = image_managed(state)
    if wanted == "absent":
        return [_remove(state, vib, image) for vib in managers]
    if _is_there(state, wanted) and not _drifts(state, wanted):
        return []
    where = f"the image of cluster {state.cluster.name}" if image and state.cluster else "the host"
    return [
        Step(
            kind=StepKind.REMEDIATE_IMAGE if image else StepKind.INSTALL_MANAGER,
            target=state.ref.name,
            reason=_lack(state, wanted),
            change=f"{wanted.name} goes into {where} from {wanted.depot}"
            + (
                ", and the host is remediated; the other hosts become non-compliant until they are too" if image else ""
            ),
            risk=Risk.DISRUPTIVE,
            params={
                "name": wanted.name,
                "version": wanted.version,
                "depot": wanted.depot or "",
                "sha256": wanted.sha256 or "",
            },
        )
    ]


def image_in_doubt(state: HostState, profile: Profile) -> bool:
    """The wanted package is on the host, and would be drift if the cluster's image did not have it."""
    wanted = profile.vgpu_manager
    return isinstance(wanted, VgpuManager) and image_managed(state) and _is_there(state, wanted)


def image_notes(state: HostState) -> list[str]:
    """What nobody could tell about the cluster's image."""
    if not state.image_unread:
        return []
    return [
        "whether the vGPU Manager is in the image of the cluster could not be read, so that the next remediation may "
        f"remove it: {state.image_unread}"
    ]


def manager_blockers(
    state: HostState, profile: Profile, steps: list[Step], depot: DepotContent | None
) -> list[Blocker]:
    """What forbids the manager's steps, known before anything is touched."""
    wanted = profile.vgpu_manager
    found = []
    if wanted is not None and state.vibs is None:
        found.append(
            Blocker(
                code="packages-unknown",
                text=f"the packages installed on {state.ref.name} could not be read: {'; '.join(state.unread)}",
                fix="check the service account's privileges and the host's connection",
            )
        )
    if not isinstance(wanted, VgpuManager):
        return found
    others = [vib for vib in installed_managers(state) if vib.name.casefold() != wanted.name.casefold()]
    if others:
        names = ", ".join(f"{vib.name} {vib.version}" for vib in others)
        found.append(
            Blocker(
                code="other-vgpu-manager",
                text=f"{names} is installed, the profile wants {wanted.name}; the graphics (VGPU) and AI Enterprise "
                "(AIE) drivers exclude each other",
                fix="correct the profile's vgpu_manager.name, or remove the other one first (vgpu_manager: absent)",
                error="BadRequest",
            )
        )
    if any(step.kind in (StepKind.INSTALL_MANAGER, StepKind.REMEDIATE_IMAGE) for step in steps):
        found += _install_blockers(state, wanted, depot)
    return found


def _install_blockers(state: HostState, wanted: VgpuManager, depot: DepotContent | None) -> list[Blocker]:
    found = []
    image = image_managed(state)
    if image and wanted.depot is not None and not wanted.depot.startswith("https://"):
        found.append(
            Blocker(
                code="image-needs-url",
                text=f"{state.ref.name} is managed by an image, and vCenter fetches depots for images from a URL only, "
                f"not from {wanted.depot}",
                fix="put the depot on an https server and name its URL in vgpu_manager.depot",
                error="BadRequest",
            )
        )
    if wanted.depot is None:
        found.append(
            Blocker(
                code="no-depot",
                text=f"{_lack(state, wanted)}; the profile names no depot to take it from",
                fix="name the depot and its sha256 in the profile's vgpu_manager, or let a person "
                + (
                    "put that version into the cluster's image and remediate this host"
                    if image
                    else f"install it on {state.ref.name} in maintenance mode (`esxcli software vib install -d DEPOT`) "
                    "and reboot"
                )
                + "; then ask again",
                error="BadRequest",
            )
        )
    if state.major_version >= 9 and not image:
        found.append(
            Blocker(
                code="no-baselines",
                text=f"{state.ref.name} runs ESX {state.version}, which is no longer patched host by host",
                fix="manage its cluster with an image (vSphere Lifecycle Manager), then ask again",
                error="NotSupported",
            )
        )
    if depot is not None:
        found += _depot_blockers(state, wanted, depot)
    return found


def _depot_blockers(state: HostState, wanted: VgpuManager, depot: DepotContent) -> list[Blocker]:
    vib = depot.find(wanted.name)
    if vib is None:
        has = ", ".join(f"{each.name} {each.version}" for each in depot.vibs) or "nothing"
        return [
            Blocker(
                code="wrong-package",
                text=f"{wanted.depot} holds {has}, not {wanted.name}",
                fix="AI Enterprise (AIE) and graphics (VGPU) host drivers are different downloads: take the right one",
                error="BadRequest",
            )
        ]
    found = []
    if not meets(vib.version, wanted.version):
        found.append(
            Blocker(
                code="wrong-version",
                text=f"{wanted.depot} holds {vib.name} {vib.version}, wanted is {wanted.version}",
                fix="correct the profile's version or depot",
                error="BadRequest",
            )
        )
    if not platform_matches(state.version, depot.platforms):
        found.append(
            Blocker(
                code="wrong-platform",
                text=f"{wanted.depot} is for ESXi {', '.join(depot.platforms)}, {state.ref.name} runs {state.version}",
                fix="take the package for this ESXi release",
                error="BadRequest",
            )
        )
    if state.acceptance_level and not accepts(state.acceptance_level, vib.acceptance_level):
        found.append(
            Blocker(
                code="acceptance-level",
                text=f"{vib.name} is {vib.acceptance_level}, {state.ref.name} takes {state.acceptance_level} or better",
                fix="take a package that NVIDIA signed, or lower the host's acceptance level",
                error="NotSupported",
            )
        )
    if state.secure_boot and (vib.signed is False or vib.acceptance_level == "community"):
        found.append(
            Blocker(
                code="secure-boot",
                text=f"{vib.name} is not signed and {state.ref.name} boots with UEFI Secure Boot",
                fix="take a package that NVIDIA signed",
                error="NotSupported",
            )
        )
    return found


def image_managed(state: HostState) -> bool:
    """The cluster's image says what is installed on the host."""
    return state.cluster is not None and state.cluster.lifecycle_managed


def _is_there(state: HostState, wanted: VgpuManager) -> bool:
    present = _find(installed_managers(state), wanted.name)
    return present is not None and meets(present.version, wanted.version)


def _drifts(state: HostState, wanted: VgpuManager) -> bool:
    """The package on the host is not the image's doing: the next remediation removes or replaces it.

    An image that has the component in another version that is wanted too keeps the promise as well.
    """
    present = _find(installed_managers(state), wanted.name)
    if present is None or state.image_components is None or not image_managed(state):
        return False
    return not any(
        version == present.version or (_same_driver(component, wanted.name) and meets(version, wanted.version))
        for component, version in state.image_components.items()
        if component.upper().startswith("NVD")
    )


def _same_driver(component: str, vib: str) -> bool:
    """`NVD-AIE-800` is the component of `NVD-AIE_ESXi_8.0.0_Driver`: the graphics and AIE drivers are two."""
    family = "-".join(component.casefold().split("-")[:2])
    return vib.casefold().startswith(family)


def _lack(state: HostState, wanted: VgpuManager) -> str:
    """What is missing, in words, with the version found and the one wanted."""
    present = _find(installed_managers(state), wanted.name)
    if present and _is_there(state, wanted) and state.cluster:
        return (
            f"{present.name} {present.version} is on {state.ref.name}, but not in the image of cluster "
            f"{state.cluster.name}: the next remediation takes it away"
        )
    now = f"{present.version} is installed" if present else "it is not installed"
    return f"{wanted.name} {wanted.version} is wanted on {state.ref.name}, {now}"


def _remove(state: HostState, vib: InstalledVib, image: bool) -> Step:
    if image and state.cluster:
        return Step(
            kind=StepKind.REMEDIATE_IMAGE,
            target=state.ref.name,
            reason=f"{vib.name} {vib.version} is installed, the profile wants none",
            change=f"{vib.name} leaves the image of cluster {state.cluster.name}, and the host is remediated; the "
            "other hosts become non-compliant until they are too",
            risk=Risk.DISRUPTIVE,
            params={"name": vib.name, "version": "absent", "depot": "", "sha256": ""},
        )
    return Step(
        kind=StepKind.REMOVE_MANAGER,
        target=state.ref.name,
        reason=f"{vib.name} {vib.version} is installed, the profile wants none",
        change=f"{vib.name} is removed from the host",
        risk=Risk.DISRUPTIVE,
        params={"name": vib.name},
    )


def _find(vibs: list[InstalledVib], name: str) -> InstalledVib | None:
    return next((vib for vib in vibs if vib.name.casefold() == name.casefold()), None)
