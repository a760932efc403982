"""What an order on a VM has to prove: nothing that history says counts without a grant or the right work."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from activities.vm_permits import check_vm_permit
from contracts.approvals import DecisionClaims, Verdict
from contracts.errors import Conflict
from contracts.machine import VmRef
from contracts.plan import Plan, Risk, Step, StepKind, plan_hash
from contracts.provision import VmStepOrder, VmWork
from contracts.signing import Keyring, sign
from contracts.vms import DynamicGpu, GpuWish, VmRequest, VmSource
from planning.machine import gpu_words
from planning.machine_rules import devices_of

KEY = Ed25519PrivateKey.generate()
RINGS = Keyring.of(KEY.public_key())
NOW = datetime(2026, 3, 1, tzinfo=UTC)
VM = VmRef(vcenter="vc", instance_uuid="uuid-1", moid="vm-1", name="train-1")
RUN = {"workflow_id": "provision-gpu-vm/vc/train-1", "run_id": "run-1"}
ONE: tuple[GpuWish, ...] = (DynamicGpu(match="10de:20f1"),)


def request(gpus: tuple[GpuWish, ...] = ONE) -> VmRequest:
    return VmRequest(name="train-1", vcenter="vc", cluster="c", source=VmSource(template="t"), gpus=gpus)


def step(kind: StepKind, **params: str) -> Step:
    return Step(kind=kind, target="train-1", reason="r", change="c", risk=Risk.SAFE, params=params)


def order(work: VmWork, what: Step, subject: str = "vc/uuid-1", **more: Any) -> VmStepOrder:
    plan = Plan(steps=(what,))
    fields: dict[str, Any] = {
        "vcenter": "vc", "step": what, "plan": plan, "plan_hash": plan_hash(subject, plan), "subject": subject,
        "work": work, "request": request(), "vm": VM,
    }  # fmt: skip
    return VmStepOrder.model_validate(fields | more)


def granted(made: VmStepOrder, **changes: Any) -> VmStepOrder:
    claims: dict[str, Any] = {
        **RUN, "plan_hash": made.plan_hash, "verdict": Verdict.APPROVE, "approver": "cli:bob", "nonce": "n",
        "decided_at": NOW, "expires_at": NOW + timedelta(hours=1),
    }  # fmt: skip
    return made.model_copy(update={"grant": sign(DecisionClaims.model_validate(claims | changes), KEY)})


def check(made: VmStepOrder, ask_always: bool = False) -> None:
    check_vm_permit(made, made.step.kind, RINGS, **RUN, ask_always=ask_always, now=NOW)


SET = step(StepKind.SET_VM_GPUS, gpus=gpu_words(devices_of(ONE)))
DELETE = step(StepKind.DELETE_VM, vm="vm-1")
SHUT_DOWN = step(StepKind.SHUT_DOWN_GUEST, vm="vm-1")
UPGRADE = step(StepKind.UPGRADE_HARDWARE, version="vmx-17")
POWER_ON = step(StepKind.POWER_ON_VM)


@pytest.mark.parametrize(
    ("work", "what", "needed"),
    [
        (VmWork.PROVISION, SET, False),
        (VmWork.PROVISION, POWER_ON, False),
        (VmWork.PROVISION, UPGRADE, True),
        (VmWork.CHANGE, SET, True),
        (VmWork.CHANGE, SHUT_DOWN, True),
        (VmWork.CHANGE, POWER_ON, False),
        (VmWork.RETIRE, DELETE, True),
        (VmWork.RETIRE, SHUT_DOWN, True),
        (VmWork.UNDO, DELETE, False),
    ],
)
def test_what_people_own_takes_a_grant(work: VmWork, what: Step, needed: bool) -> None:
    made = order(work, what)
    if needed:
        with pytest.raises(Conflict, match="nobody approved"):
            check(made)
    else:
        check(made)
    check(granted(made))


def test_where_policy_asks_for_new_vms_their_steps_take_a_grant_too() -> None:
    with pytest.raises(Conflict, match="nobody approved"):
        check(order(VmWork.PROVISION, SET), ask_always=True)
    check(granted(order(VmWork.PROVISION, SET)), ask_always=True)
    check(order(VmWork.UNDO, DELETE), ask_always=True)


@pytest.mark.parametrize(
    ("work", "what"),
    [
        (VmWork.PROVISION, DELETE),
        (VmWork.PROVISION, SHUT_DOWN),
        (VmWork.UNDO, SET),
        (VmWork.UNDO, POWER_ON),
        (VmWork.CHANGE, DELETE),
        (VmWork.RETIRE, UPGRADE),
    ],
)
def test_a_run_does_only_what_its_work_is(work: VmWork, what: Step) -> None:
    with pytest.raises(Conflict, match="does no such thing"):
        check(granted(order(work, what)))


def test_a_grant_counts_for_its_run_its_plan_and_its_time() -> None:
    made = order(VmWork.RETIRE, DELETE)
    for changes, words in (
        ({"run_id": "another"}, "not for this run"),
        ({"plan_hash": "0" * 32}, "not for plan"),
        ({"verdict": Verdict.DENY}, "not approve"),
        ({"expires_at": NOW}, "expired"),
    ):
        with pytest.raises(Conflict, match=words):
            check(granted(made, **changes))


def test_what_was_approved_is_what_is_done() -> None:
    other = VmRef(vcenter="vc", instance_uuid="uuid-2", moid="vm-2", name="train-1")
    with pytest.raises(Conflict, match="about another VM"):
        check(granted(order(VmWork.RETIRE, DELETE, vm=other)))
    with pytest.raises(Conflict, match="the step is for VM vm-1"):
        check(granted(order(VmWork.RETIRE, DELETE, vm=VM.model_copy(update={"moid": "vm-2"}))))
    with pytest.raises(Conflict, match="the step gives it"):
        check(granted(order(VmWork.CHANGE, SET, request=request((DynamicGpu(match="10de:20f1", count=2),)))))
    with pytest.raises(Conflict, match="does not have the hash"):
        check(granted(order(VmWork.CHANGE, SET)).model_copy(update={"subject": "vc/uuid-2"}))
    with pytest.raises(Conflict, match="not part of plan"):
        check(granted(order(VmWork.CHANGE, SET)).model_copy(update={"step": POWER_ON}))


def test_a_plan_by_name_is_for_new_vms_only() -> None:
    check(order(VmWork.PROVISION, SET, subject="vc/train-1"))
    with pytest.raises(Conflict, match="about another VM"):
        check(granted(order(VmWork.CHANGE, SET, subject="vc/train-1")))
