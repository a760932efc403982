"""The names that Temporal stores: workflow types, updates, signals, queries and task queues.

They are explicit strings so that moving or renaming a Python module never orphans a running workflow.
"""

from typing import NamedTuple

__all__ = [
    "DECIDE",
    "HOST_EVENTS",
    "PREPARE_GPU_HOST",
    "QUERY_APPROVAL",
    "QUERY_REPORT",
    "QUERY_STATUS",
    "RECHECK",
    "RESOLVE",
    "STOP",
    "WATCH_PROGRESS",
    "WATCH_VCENTER",
    "TaskQueues",
]

PREPARE_GPU_HOST = "PrepareGpuHost"
WATCH_VCENTER = "WatchVCenter"

# Updates: a person's decisions, with validators.
DECIDE = "decide"
RESOLVE = "resolve"

# Signals.
HOST_EVENTS = "host_events"
RECHECK = "recheck"
STOP = "stop"
WATCH_PROGRESS = "watch_progress"

# Queries.
QUERY_REPORT = "report"
QUERY_APPROVAL = "approval"
QUERY_STATUS = "status"


class TaskQueues(NamedTuple):
    """The three task queues of a service; `base` is `temporal.task_queue` in the configuration.

    Long waits (reboots, maintenance) have a queue of their own so that they starve nothing, and the listener has one
    because it needs a worker with other heartbeat settings.
    """

    base: str = "gpuwright"

    @property
    def main(self) -> str:
        """Workflows and short activities."""
        return self.base

    @property
    def wait(self) -> str:
        """Activities that mostly wait."""
        return f"{self.base}-wait"

    @property
    def listen(self) -> str:
        """`follow_events`."""
        return f"{self.base}-listen"
