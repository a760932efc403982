"""No activity changes a host without proof that a person, or policy, allowed this very step."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from activities.permits import check_permit, plan_subject
from contracts.approvals import DecisionClaims, Verdict
from contracts.errors import Conflict
from contracts.plan import Plan, Risk, StepKind, plan_hash
from contracts.prepare import StepOrder
from contracts.signing import Keyring, sign
from planning.host import plan_host
from tests.support.hosts import TRAINING, host

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
RING = Keyring.of(KEY.public_key())
RUN = {"workflow_id": "prepare-gpu-host/vc/h", "run_id": "run-1"}
HOST = host().ref
PLAN = plan_host(host(), TRAINING)
HASH = plan_hash(plan_subject(HOST), PLAN)


def grant(hash_: str = HASH) -> str:
    return sign(
        DecisionClaims(
            **RUN,
            plan_hash=hash_,
            verdict=Verdict.APPROVE,
            approver="cli:bob",
            nonce="n",
            decided_at=NOW,
            expires_at=NOW + timedelta(hours=1),
        ),
        KEY,
    )


def order(index: int, **changes: Any) -> StepOrder:
    fields = {"host": HOST, "step": PLAN.steps[index], "plan": PLAN, "plan_hash": HASH, "grant": grant()}
    return StepOrder.model_validate(fields | changes)


def test_an_approved_step_is_permitted() -> None:
    for index, step in enumerate(PLAN.steps):
        check_permit(order(index), step.kind, RING, **RUN, now=NOW)


def test_a_step_called_safe_by_a_doctored_order_still_needs_a_grant() -> None:
    steps = tuple(step.model_copy(update={"risk": Risk.SAFE}) for step in PLAN.steps)
    plan = PLAN.model_copy(update={"steps": steps})
    doctored = order(2, step=steps[2], plan=plan, plan_hash=plan_hash(plan_subject(HOST), plan), grant="")
    with pytest.raises(Conflict, match="nobody approved"):
        check_permit(doctored, StepKind.REBOOT, RING, **RUN, now=NOW)


def test_a_doctored_plan_does_not_match_its_grant() -> None:
    other = PLAN.steps[1].model_copy(update={"target": "0000:01:00.0"})
    plan = Plan(steps=(*PLAN.steps, other))
    with pytest.raises(Conflict, match="does not have the hash"):
        check_permit(order(1, step=other, plan=plan), StepKind.ENABLE_PASSTHROUGH, RING, **RUN, now=NOW)
    rehashed = plan_hash(plan_subject(HOST), plan)
    with pytest.raises(Conflict, match="the grant is for plan"):
        check_permit(
            order(1, step=other, plan=plan, plan_hash=rehashed), StepKind.ENABLE_PASSTHROUGH, RING, **RUN, now=NOW
        )


def test_another_host_is_not_covered() -> None:
    elsewhere = HOST.model_copy(update={"key": "4c4c4544-0002", "name": "esx-02"})
    with pytest.raises(Conflict, match="does not have the hash"):
        check_permit(order(2, host=elsewhere), StepKind.REBOOT, RING, **RUN, now=NOW)


def test_a_step_outside_the_plan_is_refused() -> None:
    other = PLAN.steps[1].model_copy(update={"target": "0000:01:00.0"})
    with pytest.raises(Conflict, match="not part of plan"):
        check_permit(order(1, step=other), StepKind.ENABLE_PASSTHROUGH, RING, **RUN, now=NOW)


def test_an_order_for_another_kind_of_step_is_refused() -> None:
    with pytest.raises(Conflict, match="the order is for enter-maintenance"):
        check_permit(order(0), StepKind.REBOOT, RING, **RUN, now=NOW)


def test_an_expired_grant_stops_the_reboot_but_lets_the_host_be_given_back() -> None:
    late = NOW + timedelta(days=2)
    with pytest.raises(Conflict, match="expired"):
        check_permit(order(2), StepKind.REBOOT, RING, **RUN, now=late)
    check_permit(order(3), StepKind.EXIT_MAINTENANCE, RING, **RUN, now=late)


def test_a_grant_of_another_run_is_refused() -> None:
    with pytest.raises(Conflict, match="not for this run"):
        check_permit(order(2), StepKind.REBOOT, RING, workflow_id=RUN["workflow_id"], run_id="run-2", now=NOW)
