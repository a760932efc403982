"""What becomes of an activity that fails, as its workflow sees it: what may pass is tried again for a while."""

from datetime import timedelta

import pytest
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError

from contracts import errors
from contracts.errors import BadRequest, GpuwrightError, NotSupported, Unreachable, to_application_error
from contracts.names import TaskQueues
from vsphere import sessions
from vsphere.sessions import SessionPool, pool_named
from vsphere.settings import VCenterSettings
from workers.assembly import Parts, build_workers


@workflow.defn(name="Asking", sandboxed=False)
class Asking:
    """Runs the activity `ask` under a policy that allows a few attempts."""

    @workflow.run
    async def run(self) -> str:
        """Its answer."""
        answer: str = await workflow.execute_activity(
            "ask",
            start_to_close_timeout=timedelta(seconds=30),
            retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=5),
        )
        return answer


class Asked:
    """A worker's activity, and what the worker knows."""

    def __init__(self, known_from_attempt: int) -> None:
        self._known_from_attempt = known_from_attempt
        self._pools: dict[str, SessionPool] = {}
        self.attempts = 0

    @activity.defn(name="ask")
    def ask(self) -> str:
        """The name of a vCenter that the worker learns of sooner or later."""
        self.attempts = activity.info().attempt
        if self.attempts == self._known_from_attempt:
            settings = VCenterSettings(name="lab", url="https://127.0.0.1:9", user="me", password_env="NOBODY_ASKS")
            self._pools["lab"] = SessionPool(settings)
        return pool_named(self._pools, "lab").name


async def answer(client: Client, queues: TaskQueues, asked: Asked) -> str:
    (worker,) = build_workers(client, queues, Parts(workflows=[Asking], main=[asked.ask]))
    async with worker:
        return await client.execute_workflow(Asking.run, id=queues.base, task_queue=queues.main)


async def test_a_worker_that_learns_of_a_vcenter_a_little_later_is_asked_again(
    temporal_client: Client, queues: TaskQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "_PAUSE", timedelta(seconds=0.1))
    asked = Asked(known_from_attempt=3)
    assert await answer(temporal_client, queues, asked) == "lab"
    assert asked.attempts == 3


async def test_a_vcenter_that_nobody_ever_learns_of_is_a_bad_request(
    temporal_client: Client, queues: TaskQueues, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(errors, "_PAUSE", timedelta(seconds=0.1))
    monkeypatch.setattr(sessions, "_UNKNOWN_S", 0.05)
    asked = Asked(known_from_attempt=99)
    with pytest.raises(WorkflowFailureError) as failed:
        await answer(temporal_client, queues, asked)
    assert isinstance(failed.value.cause, ActivityError)
    cause = failed.value.cause.cause
    assert isinstance(cause, ApplicationError)
    assert (cause.type, cause.non_retryable) == ("BadRequest", True)
    assert "there is no vCenter 'lab' in this worker's configuration; it has: none" in cause.message
    # Within the time it was tried again, and not as often as the policy allows after it.
    assert asked.attempts <= 2


@pytest.mark.parametrize(
    ("error", "asked_s_ago", "retried", "paused"),
    [
        (Unreachable("gone"), 1e6, True, False),
        (NotSupported("never"), 0, False, False),
        (BadRequest("wrong"), 0, False, False),
        (BadRequest("unknown", retry_for_s=60), 59, True, True),
        (BadRequest("unknown", retry_for_s=60), 61, False, False),
        (Unreachable("unknown", retry_for_s=60), 61, True, False),
    ],
)
def test_errors_are_retried_by_class_or_for_a_while(
    error: GpuwrightError, asked_s_ago: float, retried: bool, paused: bool
) -> None:
    told = to_application_error(error, asked_s_ago)
    assert (told.type, told.message) == (type(error).__name__, str(error))
    assert (not told.non_retryable, told.next_retry_delay is not None) == (retried, paused)
