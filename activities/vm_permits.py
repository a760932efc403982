"""Proof that a step on a VM was allowed, asked for by every activity that changes one.

As in `activities.permits`, the order is held against what nobody with raw access to Temporal can make up: a signed
grant, or this run's own mark in vCenter on the VM. What is made anew is a run's own; what people have is not.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from temporalio import activity

from contracts.errors import BadRequest, Conflict
from contracts.machine import VmRef, VmState
from contracts.plan import StepKind, plan_hash
from contracts.provision import VmStepOrder, VmWork
from contracts.signing import Keyring
from contracts.vms import VmRequest
from planning.machine import gpu_words
from planning.machine_rules import devices_of
from vsphere.sessions import SessionPool, pool_named
from vsphere.vm_state import read_vm

__all__ = ["VmGuard", "check_vm_permit", "own_mark", "request_of", "subject_of"]

_KINDS: dict[VmWork, frozenset[StepKind]] = {
    VmWork.PROVISION: frozenset(
        {
            StepKind.CREATE_VM,
            StepKind.UPGRADE_HARDWARE,
            StepKind.CONFIGURE_VM,
            StepKind.SET_VM_GPUS,
            StepKind.POWER_ON_VM,
            StepKind.INSTALL_GUEST_DRIVER,
        }
    ),
    VmWork.CHANGE: frozenset(
        {
            StepKind.SHUT_DOWN_GUEST,
            StepKind.UPGRADE_HARDWARE,
            StepKind.CONFIGURE_VM,
            StepKind.SET_VM_GPUS,
            StepKind.POWER_ON_VM,
            StepKind.INSTALL_GUEST_DRIVER,
        }
    ),
    VmWork.RETIRE: frozenset({StepKind.SHUT_DOWN_GUEST, StepKind.SET_VM_GPUS, StepKind.DELETE_VM}),
    VmWork.UNDO: frozenset({StepKind.DELETE_VM}),
}
"""What each work may do at all."""
_OWN = {VmWork.PROVISION, VmWork.UNDO}
"""Work on what the run itself has made: only a VM with its mark."""


def subject_of(vcenter: str, vm: VmRef | None, name: str) -> str:
    """What a VM plan's hash is bound to besides its steps."""
    return f"{vcenter}/{vm.instance_uuid if vm else name}"


def own_mark() -> str:
    """The mark of the run that the present activity works for."""
    info = activity.info()
    return f"{info.workflow_id}/{info.workflow_run_id}"


def check_vm_permit(
    order: VmStepOrder,
    kind: StepKind,
    keyring: Keyring,
    *,
    workflow_id: str,
    run_id: str,
    ask_always: bool = False,
    now: datetime | None = None,
) -> None:
    """Raise `Conflict` unless `order` is a step of `kind` that this run may take, by its grant where it needs one.

    `ask_always` is the worker's policy that a person approves new VMs too. Whether a VM is the run's own is looked at
    by `VmGuard.confirm`.
    """
    where = f"{kind} of {order.step.target}"
    if order.step.kind is not kind:
        raise Conflict(f"{where}: the order is for {order.step.kind}")
    if kind not in _KINDS[order.work]:
        raise Conflict(f"{where}: a run that is to {order.work} does no such thing")
    if plan_hash(order.subject, order.plan) != order.plan_hash:
        raise Conflict(f"{where}: the plan in the order does not have the hash {order.plan_hash}")
    if order.step.id not in {step.id for step in order.plan.steps}:
        raise Conflict(f"{where}: the step is not part of plan {order.plan_hash}")
    if order.subject not in _subjects(order):
        raise Conflict(f"{where}: the plan is about {order.subject}, and the order about another VM")
    _check_content(order, where)
    if not _needs_grant(order.work, kind, ask_always):
        return
    if not order.grant:
        raise Conflict(f"{where}: nobody approved plan {order.plan_hash}")
    keyring.verify_grant(
        order.grant,
        workflow_id=workflow_id,
        run_id=run_id,
        plan_hash=order.plan_hash,
        now=now or datetime.now(UTC),
    )


def _needs_grant(work: VmWork, kind: StepKind, ask_always: bool) -> bool:
    # A hardware upgrade has no way back. Power is given back even when a grant has run out: that harms nobody.
    if kind is StepKind.UPGRADE_HARDWARE:
        return True
    if kind is StepKind.POWER_ON_VM or work is VmWork.UNDO:
        return False
    return work is not VmWork.PROVISION or ask_always


def _subjects(order: VmStepOrder) -> set[str]:
    subjects = set()
    if order.vm is not None and order.vm.vcenter == order.vcenter:
        subjects.add(subject_of(order.vcenter, order.vm, ""))
    if order.work is VmWork.PROVISION and order.request is not None and order.request.vcenter == order.vcenter:
        # The plan that was approved may be one of when there was no VM yet.
        subjects.add(subject_of(order.vcenter, None, order.request.name))
    return subjects


def _check_content(order: VmStepOrder, where: str) -> None:
    """What an approver read is in the step; what the activity acts on must be the same."""
    step, request = order.step, order.request
    named = {each.name for each in (order.vm, request) if each is not None}
    if step.target not in named:
        raise Conflict(f"{where}: the order is about {', '.join(sorted(named)) or 'no VM'}")
    if step.kind in (StepKind.SHUT_DOWN_GUEST, StepKind.DELETE_VM) and (
        order.vm is None or step.params.get("vm") != order.vm.moid
    ):
        raise Conflict(f"{where}: the step is for VM {step.params.get('vm')}, and the order for another")
    if step.kind is StepKind.SET_VM_GPUS:
        wanted = gpu_words(devices_of(request.gpus)) if request is not None and order.work is not VmWork.RETIRE else ""
        if step.params.get("gpus") != wanted:
            raise Conflict(f"{where}: the step gives it {step.params.get('gpus')!r}, and the request {wanted!r}")
    if step.kind is StepKind.INSTALL_GUEST_DRIVER:
        package = request.driver.package if request is not None else None
        if package is None or step.params.get("sha256") != package.sha256:
            raise Conflict(f"{where}: the step installs another package than the request names")


class VmGuard:
    """The way to vCenter for activities about VMs: changes go through `permitted` and `confirm` only."""

    def __init__(self, pools: Mapping[str, SessionPool], keyring: Keyring, *, ask_always: bool = False) -> None:
        self._pools, self._keyring, self._ask_always = pools, keyring, ask_always

    def pool(self, vcenter: str) -> SessionPool:
        """The sessions of a vCenter; raises `BadRequest` for one that is not configured."""
        return pool_named(self._pools, vcenter)

    def permitted(self, order: VmStepOrder, kind: StepKind) -> SessionPool:
        """The sessions to act through, once the order was found to be allowed in the activity's very run."""
        info = activity.info()
        check_vm_permit(
            order,
            kind,
            self._keyring,
            workflow_id=info.workflow_id or "",
            run_id=info.workflow_run_id or "",
            ask_always=self._ask_always,
        )
        return self.pool(order.vcenter)

    @staticmethod
    def confirm(si: Any, order: VmStepOrder) -> VmState | None:
        """The VM of an order as it is now, found to be the run's own where it must be; None when it is gone.

        Raises `Conflict` for a VM that another run, or a person, made.
        """
        if order.vm is None:
            raise Conflict(f"{order.step.kind} of {order.step.target}: the order names no VM")
        state = read_vm(si, order.vm)
        if state is not None and order.work in _OWN and state.made_by != own_mark():
            raise Conflict(
                f"{order.step.kind} of {order.step.target}: this run did not make that VM "
                f"(made by {state.made_by or 'nobody that left a mark'})"
            )
        return state


def request_of(order: VmStepOrder) -> VmRequest:
    """The order's request; raises `BadRequest` when there is none."""
    if order.request is None:
        raise BadRequest(f"{order.step.kind} of {order.step.target}: the order has no request")
    return order.request
