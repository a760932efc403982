"""Temporal's server, and nobody else, tells a blocking activity which run started its own."""

import uuid

from temporalio import activity
from temporalio.client import Client

from activities.parents import parent
from contracts.cluster_grant import ClusterGrant
from contracts.names import TaskQueues
from contracts.plan import Plan
from contracts.prepare import StepOrder
from planning.host import plan_host
from tests.support.families import Child, Parent
from tests.support.hosts import TRAINING, host
from workers.assembly import Parts, build_workers

STEP = plan_host(host(), TRAINING).steps[0]
GRANT = ClusterGrant(token="t", plan_hash="h", hosts=())
ORDER = StepOrder(host=host().ref, step=STEP, plan=Plan(steps=(STEP,)), plan_hash="p", cluster_grant=GRANT)


@activity.defn(name="who_started_this")
def who_started_this(order: StepOrder) -> str:
    found = parent()
    return f"{found.workflow_id} {found.run_id}" if found else ""


async def test_a_child_is_known_also_when_it_was_retried_and_continued_and_a_run_by_hand_is_nobodys(
    temporal_client: Client, queues: TaskQueues
) -> None:
    (worker,) = build_workers(temporal_client, queues, Parts(workflows=[Parent, Child], main=[who_started_this]))
    async with worker:
        name = f"family-{uuid.uuid4().hex[:8]}"
        run = await temporal_client.start_workflow(Parent.run, ORDER, id=name, task_queue=queues.main)
        assert await run.result() == f"{name} {run.first_execution_run_id}"
        chain = await temporal_client.get_workflow_handle(f"{name}-child").describe()
        assert chain.run_id != chain.raw_info.first_run_id, "the child was retried and continued"
        by_hand = await temporal_client.execute_workflow(
            Child.run, args=[ORDER, False], id=f"{name}-child", task_queue=queues.main
        )
        assert by_hand == ""
        own = ORDER.model_copy(update={"cluster_grant": None})
        assert await temporal_client.execute_workflow(Parent.run, own, id=name, task_queue=queues.main) == ""
