"""Look and plan in one: used by the activity, and by `gpuwright plan`, which changes nothing."""

from activities.permits import plan_subject
from contracts.approvals import ApprovalTerms
from contracts.errors import BadRequest
from contracts.plan import plan_hash
from contracts.prepare import HostLimits, HostPlan, LookAtHost
from contracts.profiles import Profile
from contracts.rules import RulesFile
from planning.devices import gpu_statuses, relevant_functions
from planning.host import plan_host
from planning.iommu import iommu_verdict
from vsphere.identity import confirm_host
from vsphere.inventory import read_host
from vsphere.sessions import SessionPool

__all__ = ["look_at_host", "profile_named"]


def profile_named(rules: RulesFile, name: str) -> Profile:
    """The profile of that name; raises `BadRequest`."""
    if name not in rules.profiles:
        known = ", ".join(sorted(rules.profiles)) or "none is defined"
        raise BadRequest(f"there is no profile {name!r}; profiles in the rules file: {known}")
    return rules.profiles[name]


def look_at_host(
    pool: SessionPool, order: LookAtHost, profile: Profile, terms: ApprovalTerms, limits: HostLimits
) -> HostPlan:
    """Read the host once and plan what it lacks; changes nothing. Raises what `read_host` raises."""
    with pool.session() as si:
        state = read_host(si, confirm_host(si, order.host))
    plan = plan_host(state, profile, entered_maintenance=order.entered_maintenance)
    return HostPlan(
        # History keeps every look: only what explains the plan goes there, not the hundreds of other functions.
        state=state.model_copy(update={"pci": relevant_functions(state, profile)}),
        plan=plan,
        plan_hash=plan_hash(plan_subject(order.host), plan),
        gpus=gpu_statuses(state, profile),
        iommu=": ".join(iommu_verdict(state)),
        terms=terms,
        limits=limits,
    )
