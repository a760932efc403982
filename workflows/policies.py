"""Time-outs and retries of activities, by kind of work. Every wait is finite."""

from datetime import timedelta
from typing import TypedDict

from temporalio import workflow
from temporalio.common import RetryPolicy

with workflow.unsafe.imports_passed_through():
    from contracts import names

__all__ = [
    "INSPECT_S",
    "ActivityPolicy",
    "change",
    "glance",
    "listen",
    "look",
    "tell",
    "wait",
    "wait_queue",
    "watchful",
]


INSPECT_S = 120
"""Seconds for programs in a guest that only read."""


class ActivityPolicy(TypedDict, total=False):
    """Keyword arguments of `workflow.execute_activity`."""

    start_to_close_timeout: timedelta
    schedule_to_start_timeout: timedelta
    schedule_to_close_timeout: timedelta
    heartbeat_timeout: timedelta
    retry_policy: RetryPolicy


def look() -> ActivityPolicy:
    """Reads: quick and repeatable. After five minutes without success the workflow says so and waits by itself."""
    return ActivityPolicy(
        start_to_close_timeout=timedelta(seconds=40),
        schedule_to_close_timeout=timedelta(minutes=5),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30)),
    )


def glance() -> ActivityPolicy:
    """Small reads that others wait for: what a killed worker took along is read again soon."""
    return ActivityPolicy({**look(), "start_to_close_timeout": timedelta(seconds=20)})


def change() -> ActivityPolicy:
    """Changes that vCenter answers at once, and submissions of tasks. Each checks before it acts, so it may repeat."""
    return ActivityPolicy(
        start_to_close_timeout=timedelta(seconds=60),
        schedule_to_close_timeout=timedelta(minutes=10),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=2), maximum_attempts=5),
    )


def wait(timeout_s: int) -> ActivityPolicy:
    """Long waits that heartbeat; a lost worker is noticed within the heartbeat time-out and another goes on."""
    return ActivityPolicy(
        start_to_close_timeout=timedelta(seconds=timeout_s + 60),
        schedule_to_close_timeout=timedelta(seconds=timeout_s + 300),
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=30)),
    )


def watchful(timeout_s: int) -> ActivityPolicy:
    """Reads, which heartbeat, of a workflow that looks again by itself: it says soon that a look came to nothing."""
    return ActivityPolicy(
        start_to_close_timeout=timedelta(seconds=timeout_s),
        schedule_to_close_timeout=timedelta(seconds=3 * timeout_s + 60),
        heartbeat_timeout=timedelta(seconds=30),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), maximum_attempts=3),
    )


def tell() -> ActivityPolicy:
    """Telling people: a channel that is down for a day has had its chance."""
    return ActivityPolicy(
        start_to_close_timeout=timedelta(minutes=1),
        schedule_to_close_timeout=timedelta(hours=24),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=2), maximum_interval=timedelta(minutes=10)),
    )


def wait_queue() -> str:
    """The task queue for long waits beside the one this workflow runs on."""
    return names.TaskQueues(workflow.info().task_queue).wait


def listen(unheard_s: float) -> ActivityPolicy:
    """Following events: a lost reader is replaced in seconds, for as long as it takes, and no slower the tenth time.

    With a growing pause a vCenter that was down for an hour would be listened to minutes after its return. When no
    worker takes an attempt for `unheard_s`, the activity ends, because the workflow learns of it in no other way.
    """
    return ActivityPolicy(
        schedule_to_start_timeout=timedelta(seconds=unheard_s),
        start_to_close_timeout=timedelta(hours=2),
        heartbeat_timeout=timedelta(seconds=5),
        retry_policy=RetryPolicy(initial_interval=timedelta(seconds=1), backoff_coefficient=1),
    )
