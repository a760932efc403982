"""A cluster's approval permits the steps of its own hosts' plans, to these hosts' runs, and nothing else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from activities.parents import Run
from activities.permits import check_permit, plan_subject
from contracts import ids
from contracts.approvals import DecisionClaims, Verdict
from contracts.cluster_grant import ClusterGrant, cluster_plan_hash
from contracts.errors import Conflict
from contracts.plan import Plan, StepKind, plan_hash
from contracts.prepare import StepOrder
from contracts.signing import Keyring, sign
from planning.host import plan_host
from tests.support.hosts import TRAINING, host

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Ed25519PrivateKey.generate()
RING = Keyring.of(KEY.public_key())
HOST = host().ref
OTHER = HOST.model_copy(update={"key": "4c4c4544-0002", "name": "esx-02"})
RUN = {"workflow_id": ids.prepare_gpu_host(HOST.vcenter, HOST.key), "run_id": "child-1"}
PLAN = plan_host(host(), TRAINING)
HASH = plan_hash(plan_subject(HOST), PLAN)
HOSTS = ((OTHER.key, "5" * 32), (HOST.key, HASH))
CLUSTER = ids.prepare_gpu_cluster(HOST.vcenter, "domain-c1")
PARENT = Run(CLUSTER, "parent-1")
REBOOT = next(step for step in PLAN.steps if step.kind is StepKind.REBOOT)


def token(key: Ed25519PrivateKey = KEY, **changes: Any) -> str:
    claims: dict[str, Any] = {
        "workflow_id": CLUSTER,
        "run_id": "parent-1",
        "plan_hash": cluster_plan_hash(HOST.vcenter, "domain-c1", HOSTS),
        "verdict": Verdict.APPROVE,
        "approver": "cli:bob",
        "nonce": "n",
        "decided_at": NOW,
        "expires_at": NOW + timedelta(hours=1),
    }
    return sign(DecisionClaims.model_validate(claims | changes), key)


def order(grant: ClusterGrant | None = None, **changes: Any) -> StepOrder:
    grant = grant or share()
    fields = {"host": HOST, "step": REBOOT, "plan": PLAN, "plan_hash": HASH, "grant": grant.token}
    return StepOrder.model_validate(fields | {"cluster_grant": grant} | changes)


def share(signed: str | None = None, hosts: tuple[tuple[str, str], ...] = HOSTS) -> ClusterGrant:
    return ClusterGrant(
        token=signed or token(), plan_hash=cluster_plan_hash(HOST.vcenter, "domain-c1", hosts), hosts=hosts
    )


def check(asked: StepOrder, now: datetime = NOW, started_by: Run | None = PARENT, **run: str) -> None:
    check_permit(asked, asked.step.kind, RING, **(RUN | run), started_by=started_by, now=now)


def test_every_step_of_a_host_of_the_approved_cluster_is_permitted_in_any_order_of_hosts() -> None:
    for step in PLAN.steps:
        check(order(step=step))
        check(order(share(hosts=HOSTS[::-1]), step=step))


def test_a_grant_signed_by_a_stranger_is_refused() -> None:
    with pytest.raises(Conflict, match="not trusted"):
        check(order(share(token(Ed25519PrivateKey.generate()))))


def test_a_list_of_hosts_that_was_not_signed_is_refused() -> None:
    forged = (("4c4c4544-0002", "6" * 32), (HOST.key, HASH))
    with pytest.raises(Conflict, match="the grant is for plan"):
        check(order(share(hosts=forged)))
    signed_without_this_host = token(plan_hash=cluster_plan_hash(HOST.vcenter, "domain-c1", HOSTS[:1]))
    with pytest.raises(Conflict, match="the grant is for plan"):
        check(order(share(signed_without_this_host)))


def test_a_host_that_is_not_on_the_list_is_refused() -> None:
    grant = share(token(plan_hash=cluster_plan_hash(HOST.vcenter, "domain-c1", HOSTS[:1])), HOSTS[:1])
    with pytest.raises(Conflict, match="not part of the cluster's plan"):
        check(order(grant))


def test_another_plan_of_a_host_on_the_list_is_refused() -> None:
    plan = Plan(steps=(*PLAN.steps, REBOOT.model_copy(update={"target": "elsewhere"})))
    with pytest.raises(Conflict, match="not part of the cluster's plan"):
        check(order(plan=plan, plan_hash=plan_hash(plan_subject(HOST), plan)))


@pytest.mark.parametrize(
    ("signed_for", "words"),
    [
        (ids.prepare_gpu_cluster("elsewhere", "domain-c1"), "not for a cluster of"),
        (ids.prepare_gpu_host(HOST.vcenter, HOST.key), "not for a cluster of"),
        ("something-else", "prepares no cluster"),
        (ids.prepare_gpu_cluster(HOST.vcenter, "domain-c2"), "the grant is for plan"),
    ],
)
def test_a_decision_about_something_else_is_refused(signed_for: str, words: str) -> None:
    with pytest.raises(Conflict, match=words):
        check(order(share(token(workflow_id=signed_for))), started_by=Run(signed_for, "parent-1"))


def test_the_run_of_another_host_may_not_use_it() -> None:
    with pytest.raises(Conflict, match="is not the run of this host"):
        check(order(), workflow_id=ids.prepare_gpu_host(OTHER.vcenter, OTHER.key))


@pytest.mark.parametrize(
    ("started_by", "words"),
    [
        (None, "was started by no workflow"),
        (Run(CLUSTER, "parent-2"), "was started by run parent-2"),
        (Run(ids.prepare_gpu_cluster(HOST.vcenter, "domain-c2"), "parent-1"), "was started by run parent-1 of"),
    ],
)
def test_a_copied_grant_permits_nothing_to_a_run_that_the_cluster_did_not_start(
    started_by: Run | None, words: str
) -> None:
    for step in (REBOOT, PLAN.steps[0], PLAN.steps[-1]):
        with pytest.raises(Conflict, match=words):
            check(order(step=step), started_by=started_by)


def test_a_denial_is_no_grant() -> None:
    with pytest.raises(Conflict, match="not approve"):
        check(order(share(token(verdict=Verdict.DENY))))


def test_an_expired_one_stops_the_reboot_but_lets_the_host_be_given_back() -> None:
    late = NOW + timedelta(days=2)
    with pytest.raises(Conflict, match="expired"):
        check(order(), now=late)
    check(order(step=PLAN.steps[-1]), now=late)


def test_a_clusters_token_is_no_grant_of_a_host_by_itself() -> None:
    with pytest.raises(Conflict, match="not for this run"):
        check(order(cluster_grant=None))
