"""What brings a lost GPU VM back. Every step proves that it was approved, then looks at the VM, then acts once.

The order comes from workflow history, which anybody with raw access to Temporal could have written. What an approver
read are the words of the signed plan's steps, so the words are made again from the parameters that are acted on, and
the names in them are held against vCenter.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from temporalio import activity

from activities.heartbeats import beating
from contracts import ids
from contracts.activities import RemedyActivities
from contracts.audit import RemedyOrder
from contracts.errors import Conflict
from contracts.machine import VmRef
from contracts.plan import StepKind, plan_hash
from contracts.provision import VmStepOutcome
from contracts.signing import Keyring
from planning.machine_rules import DYNAMIC_HARDWARE
from planning.remedy_steps import change_words, conversions_of, settings_of
from vsphere import lost_vms, vm_change
from vsphere.sessions import SessionPool, pool_named

__all__ = ["VCenterRemedyActivities", "check_remedy_permit"]


def check_remedy_permit(
    order: RemedyOrder,
    kind: StepKind,
    keyring: Keyring,
    *,
    workflow_id: str,
    run_id: str,
    now: datetime | None = None,
) -> None:
    """Raise `Conflict` unless `order` is a step of `kind` of a plan that was approved in this very audit."""
    where = f"{kind} of {order.step.target}"
    if order.step.kind is not kind:
        raise Conflict(f"{where}: the order is for {order.step.kind}")
    if plan_hash(order.subject, order.plan) != order.plan_hash:
        raise Conflict(f"{where}: the plan in the order does not have the hash {order.plan_hash}")
    if order.step not in order.plan.steps:
        raise Conflict(f"{where}: the step is not part of plan {order.plan_hash}")
    vcenter, _, about = order.subject.partition("/")
    if vcenter != order.vcenter or workflow_id != ids.ha_recovery_audit(vcenter, about):
        raise Conflict(f"{where}: the plan is about {order.subject}, which {workflow_id} does not look after")
    try:
        words = change_words(kind, order.step.target, order.step.params)
    except ValueError as error:
        raise Conflict(f"{where}: {error}") from error
    if order.step.change != words:
        raise Conflict(f"{where}: its words are {order.step.change!r}, and it would do {words!r}")
    if not order.grant:
        raise Conflict(f"{where}: nobody approved plan {order.plan_hash}")
    keyring.verify_grant(
        order.grant,
        workflow_id=workflow_id,
        run_id=run_id,
        plan_hash=order.plan_hash,
        now=now or datetime.now(UTC),
    )


class VCenterRemedyActivities(RemedyActivities):
    """`RemedyActivities` through vCenter. Blocking; each call runs in an activity thread."""

    def __init__(self, pools: Mapping[str, SessionPool], keyring: Keyring) -> None:
        self._pools, self._keyring = pools, keyring

    @activity.defn(name="register_lost_vm")
    def register_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """See `RemedyActivities`."""
        pool, params = self._permitted(order, StepKind.REGISTER_VM), order.step.params
        converted = any(
            step.kind is StepKind.SET_VM_GPUS and step.params.get("vm") == params["vm"] for step in order.plan.steps
        )
        wanted = lost_vms.Registration(
            path=params["path"],
            name=order.step.target,
            folder_moid=params["folder"],
            pool_moid=params["pool"],
            old_host=lost_vms.Goal(params["from"], params["from_name"]),
            goal=_goal(order),
        )
        with beating(f"register {order.step.target}"), pool.session() as si:
            found = lost_vms.find_by_uuid(si, order.vcenter, params["vm"])
            if found is not None:
                _check_name(order, found)
                if converted:
                    # Told before it is moved: it would be of no use elsewhere.
                    lost_vms.check_hardware(si, found, DYNAMIC_HARDWARE)
            done = lost_vms.register(si, order.vcenter, params["vm"], wanted, activity.heartbeat, order.timeout_s)
        return VmStepOutcome(changed=done, text="registered" if done else "was registered there already")

    @activity.defn(name="configure_lost_vm")
    def configure_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """See `RemedyActivities`."""
        pool = self._permitted(order, StepKind.CONFIGURE_VM)
        with pool.session() as si:
            task = vm_change.configure_vm(si, _there(si, order), settings_of(order.step.params), "")
        return _submitted(task, "configured", "was configured so already")

    @activity.defn(name="convert_lost_vm")
    def convert_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """See `RemedyActivities`."""
        pool = self._permitted(order, StepKind.SET_VM_GPUS)
        wanted = conversions_of(order.step.params)
        with pool.session() as si:
            task = lost_vms.convert(si, _there(si, order), wanted, DYNAMIC_HARDWARE)
        return _submitted(task, "static devices replaced", "was converted already")

    @activity.defn(name="power_on_lost_vm")
    def power_on_lost_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """See `RemedyActivities`."""
        pool = self._permitted(order, StepKind.POWER_ON_VM)
        with beating(f"power on {order.step.target}"), pool.session() as si:
            task = lost_vms.power_on(si, _there(si, order), _goal(order))
        return _submitted(task, "powered on", "was on already")

    @activity.defn(name="apply_recommendation")
    def apply_recommendation(self, order: RemedyOrder) -> VmStepOutcome:
        """See `RemedyActivities`."""
        pool, params = self._permitted(order, StepKind.APPLY_RECOMMENDATION), order.step.params
        with pool.session() as si:
            applied, task = lost_vms.apply_recommendation(
                si, _there(si, order), params["cluster"], params["key"], _goal(order)
            )
        return VmStepOutcome(changed=applied, text="applied" if applied else "was applied already", task=task)

    @activity.defn(name="move_vm")
    def move_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """See `RemedyActivities`."""
        pool = self._permitted(order, StepKind.MOVE_VM)
        with pool.session() as si:
            task = lost_vms.move(si, _there(si, order), _goal(order))
        return _submitted(task, f"moved to {order.step.params['host_name']}", "was there already")

    @activity.defn(name="suspend_vm")
    def suspend_vm(self, order: RemedyOrder) -> VmStepOutcome:
        """See `RemedyActivities`."""
        pool = self._permitted(order, StepKind.SUSPEND_VM)
        with pool.session() as si:
            task = lost_vms.suspend(si, _there(si, order))
        return _submitted(task, "suspended", "was suspended already")

    def _permitted(self, order: RemedyOrder, kind: StepKind) -> SessionPool:
        """The sessions to act through, once the order was found to be allowed in the activity's very run."""
        info = activity.info()
        check_remedy_permit(
            order, kind, self._keyring, workflow_id=info.workflow_id or "", run_id=info.workflow_run_id or ""
        )
        return pool_named(self._pools, order.vcenter)


def _goal(order: RemedyOrder) -> lost_vms.Goal:
    """The host of a step, which has to be in the cluster that the audit is about."""
    about = order.subject.partition("/")[2]
    params = order.step.params
    return lost_vms.Goal(params["host"], params["host_name"], about if about.startswith("domain-") else "")


def _there(si: Any, order: RemedyOrder) -> VmRef:
    """The step's VM by its instance UUID, whatever its moid is now; raises `Conflict` when it is not there."""
    found = lost_vms.find_by_uuid(si, order.vcenter, order.step.params["vm"])
    if found is None:
        raise Conflict(f"{order.step.kind} of {order.step.target}: it is no longer in the inventory; look again")
    _check_name(order, found)
    return found


def _check_name(order: RemedyOrder, found: VmRef) -> None:
    """Who approved read a name: raise `Conflict` when another VM has the UUID that goes with it."""
    if found.name != order.step.target:
        raise Conflict(
            f"{order.step.kind} of {order.step.target}: the VM with that instance UUID is called {found.name} now; "
            "look again"
        )


def _submitted(task: str | None, done: str, already: str) -> VmStepOutcome:
    if task is None:
        return VmStepOutcome(changed=False, text=already)
    return VmStepOutcome(changed=True, text=done, task=task)
