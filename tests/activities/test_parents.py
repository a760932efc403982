"""Temporal's server, and nobody else, tells a blocking activity which run started its own."""

import uuid

import pytest
from temporalio import activity
from temporalio.api.common.v1 import WorkflowExecution
from temporalio.api.workflowservice.v1 import ResetWorkflowExecutionRequest
from temporalio.client import Client, WorkflowFailureError
from temporalio.exceptions import ActivityError, ApplicationError

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


async def test_a_child_that_was_reset_is_refused(temporal_client: Client, queues: TaskQueues) -> None:
    (worker,) = build_workers(temporal_client, queues, Parts(workflows=[Parent, Child], main=[who_started_this]))
    async with worker:
        name = f"family-{uuid.uuid4().hex[:8]}"
        await temporal_client.execute_workflow(Parent.run, args=[ORDER, False], id=name, task_queue=queues.main)
        child = temporal_client.get_workflow_handle(f"{name}-child")
        await temporal_client.workflow_service.reset_workflow_execution(
            ResetWorkflowExecutionRequest(
                namespace=temporal_client.namespace,
                workflow_execution=WorkflowExecution(workflow_id=child.id, run_id=(await child.describe()).run_id),
                workflow_task_finish_event_id=4,
                request_id=uuid.uuid4().hex,
            )
        )
        with pytest.raises(WorkflowFailureError) as raised:
            await child.result()
        assert isinstance(raised.value.cause, ActivityError)
        assert isinstance(raised.value.cause.cause, ApplicationError)
        assert "was reset by hand" in raised.value.cause.cause.message


async def test_a_child_is_known_also_when_it_was_retried_and_continued_and_a_run_by_hand_is_nobodys(
    temporal_client: Client, queues: TaskQueues
) -> None:
    (worker,) = build_workers(temporal_client, queues, Parts(workflows=[Parent, Child], main=[who_started_this]))
    async with worker:
        name = f"family-{uuid.uuid4().hex[:8]}"
        run = await temporal_client.start_workflow(Parent.run, args=[ORDER, True], id=name, task_queue=queues.main)
        assert await run.result() == f"{name} {run.first_execution_run_id}"
        chain = await temporal_client.get_workflow_handle(f"{name}-child").describe()
        assert chain.run_id != chain.raw_info.first_run_id, "the child was retried and continued"
        by_hand = await temporal_client.execute_workflow(
            Child.run, args=[ORDER, False], id=f"{name}-child", task_queue=queues.main
        )
        assert by_hand == ""
        own = ORDER.model_copy(update={"cluster_grant": None})
        told = await temporal_client.execute_workflow(Parent.run, args=[own, False], id=name, task_queue=queues.main)
        assert told == "", "and nobody asks for a host's own approval"
