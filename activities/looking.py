"""Look and plan in one: used by the activity, and by `gpuwright plan`, which changes nothing."""

from datetime import UTC, datetime
from typing import TypeVar

from activities.permits import plan_subject
from contracts.approvals import ApprovalTerms
from contracts.errors import BadRequest, GpuwrightError
from contracts.host import ClusterRef, HostRef
from contracts.packages import DepotContent
from contracts.plan import Plan, StepKind, plan_hash
from contracts.prepare import HostLimits, HostPlan, LookAtHost
from contracts.profiles import Profile, VgpuManager
from contracts.rules import RulesFile
from contracts.windows import Window
from planning.bios import before_boot, bios_in_doubt, replaced
from planning.devices import gpu_statuses, pin, relevant_functions, wanted_gpus
from planning.host import plan_host
from planning.iommu import iommu_verdict
from planning.manager import image_in_doubt
from planning.restore import configuration_of, restore_of, way_back
from planning.vm_moves import wants_neighbours
from planning.windows import next_opening
from vsphere.deadline import within
from vsphere.depots import read_depot
from vsphere.identity import confirm_host
from vsphere.inventory import read_host
from vsphere.neighbours import read_neighbours, read_stopped
from vsphere.redfish import Bmc
from vsphere.sessions import SessionPool
from vsphere.settings import BmcSettings, VCenterSettings, bmc_for
from vsphere.vlcm import lifecycle_manager

__all__ = ["hardware_uuid", "inspect_depot", "look_at_host", "profile_named"]

_Settings = TypeVar("_Settings", BmcSettings, VCenterSettings)
_ANSWER_S = 5.0
"""How long one answer of a BMC, or of the lifecycle manager, may take within a look."""
_ASIDE_S = 10.0
"""How long all answers of either may take together; the look itself may take 40 seconds."""


def profile_named(rules: RulesFile, name: str) -> Profile:
    """The profile of that name; raises `BadRequest`."""
    if name not in rules.profiles:
        known = ", ".join(sorted(rules.profiles)) or "none is defined"
        raise BadRequest(f"there is no profile {name!r}; profiles in the rules file: {known}")
    return rules.profiles[name]


def look_at_host(
    pool: SessionPool,
    order: LookAtHost,
    profile: Profile,
    terms: ApprovalTerms,
    limits: HostLimits,
    windows: tuple[Window, ...] = (),
    *,
    ssh: bool = True,
    bmcs: tuple[BmcSettings, ...] = (),
) -> HostPlan:
    """Read the host once and plan what it lacks; changes nothing. Raises what `read_host` raises.

    `ssh` says that the configuration knows how to log in to hosts. The host's BMC, if it is among `bmcs`, is asked
    where vSphere's evidence says that the BIOS has something switched off.
    """
    with pool.session() as si:
        state = read_host(si, confirm_host(si, order.host))
        pinned = pin(state, profile)
        if order.shut_down:
            state = state.model_copy(update={"stopped": read_stopped(si, order.host.vcenter, order.shut_down)})
        if state.cluster and wants_neighbours(state, pinned.stuck_vms):
            neighbours = read_neighbours(si, state.cluster.moid, but=order.host)
            state = state.model_copy(update={"neighbours": neighbours})
    undoes = order.restore is not None and bool(replaced(order.restore.ran))
    if undoes or bios_in_doubt(state, wanted_gpus(state, pinned)):
        state = state.model_copy(update=_ask_bmc(order, bmcs))
    if state.cluster and image_in_doubt(state, pinned):
        state = state.model_copy(update=_ask_image(pool.settings, state.cluster))
    back = way_back(state, pinned, order.restore) if order.restore else None
    plan = plan_host(
        state,
        back.profile if back else pinned,
        entered_maintenance=order.entered_maintenance,
        depot=order.depot,
        skip=order.skip,
        ssh=ssh,
        back=back,
    )
    return HostPlan(
        # History keeps every look: only what explains the plan goes there, not the hundreds of other functions.
        state=state.model_copy(update={"pci": relevant_functions(state, pinned)}),
        plan=plan,
        plan_hash=plan_hash(plan_subject(order.host), plan),
        gpus=gpu_statuses(state, pinned),
        iommu=": ".join(iommu_verdict(state)),
        pinned=pinned,
        before=configuration_of(state, pinned) if wanted_gpus(state, pinned) else None,
        restore=restore_of(state, pinned),
        not_restored=back.left if back else (),
        depot_unread=order.depot is None and _installs(plan) and _source(pinned) is not None,
        window_opens_at=next_opening(windows, datetime.now(UTC)),
        terms=terms,
        limits=limits,
    )


def inspect_depot(pool: SessionPool, order: LookAtHost, profile: Profile) -> DepotContent:
    """Fetch the profile's depot, check its checksum and read what it holds; raises what `read_depot` raises."""
    source = _source(profile)
    if source is None:
        raise BadRequest(f"profile {profile.name!r} names no depot")
    with pool.session() as si:
        return read_depot(si, confirm_host(si, order.host), *source)


def _ask_bmc(order: LookAtHost, bmcs: tuple[BmcSettings, ...]) -> dict[str, object]:
    """`HostState.bios`, or why it could not be read; nothing without a BMC."""
    host = order.host
    settings = bmc_for(bmcs, host.name, hardware_uuid(host))
    if settings is None:
        return {}
    try:
        bmc = Bmc(_hasty(settings), host.name, hardware_uuid(host))
        said = within(_ASIDE_S, f"the BMC of {host.name}", bmc.bios).evidence
        return {"bios": before_boot(said, order.bios_ordered)}
    except GpuwrightError as error:
        return {"bios_unread": str(error)}


def _ask_image(settings: VCenterSettings, cluster: ClusterRef) -> dict[str, object]:
    """`HostState.image_components`, or why they could not be read."""

    def read() -> dict[str, str]:
        with lifecycle_manager(_hasty(settings)) as manager:
            return dict(manager.image(cluster.moid).components)

    try:
        return {"image_components": within(_ASIDE_S, f"the lifecycle manager of {settings.name}", read)}
    except GpuwrightError as error:
        return {"image_unread": str(error)}


def _hasty(settings: _Settings) -> _Settings:
    """The same server, given up on sooner."""
    limits = {name: min(getattr(settings, name), _ANSWER_S) for name in ("connect_timeout_s", "read_timeout_s")}
    return settings.model_copy(update=limits)


def hardware_uuid(host: HostRef) -> str:
    """The hardware UUID in a host's key."""
    return host.key.partition(".")[0]


def _installs(plan: Plan) -> bool:
    return any(step.kind in (StepKind.INSTALL_MANAGER, StepKind.REMEDIATE_IMAGE) for step in plan.steps)


def _source(profile: Profile) -> tuple[str, str] | None:
    manager = profile.vgpu_manager
    if isinstance(manager, VgpuManager) and manager.depot and manager.sha256:
        return manager.depot, manager.sha256
    return None
