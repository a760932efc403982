"""What the workflow sandbox costs: CPU seconds of the same workflow runs in the service's sandbox and in none.

The runs are the recorded histories of `tests/replay`, of every workflow and every wait, replayed one after the other:
nothing but the SDK and workflow code takes part. The Temporal SDK's own sandbox, with the same modules passed through,
is measured beside it. In turns, and the cheapest turn of each counts, as others use the machine too. `make bench` runs
it.
"""

import asyncio
import time

from temporalio.worker import UnsandboxedWorkflowRunner, WorkflowRunner
from temporalio.worker.workflow_sandbox import SandboxedWorkflowRunner, SandboxRestrictions

from benchmarks.results import keep
from tests.support.histories import HISTORIES, history, replay
from workers.assembly import PASSED_THROUGH, workflow_runner

ROUNDS, TURNS = 2, 3


async def main() -> None:
    """Measure, print and keep."""
    histories = [history(path) for path in HISTORIES] * ROUNDS
    ways: dict[str, WorkflowRunner] = {
        "none": UnsandboxedWorkflowRunner(),
        "ours": workflow_runner(),
        "sdk": SandboxedWorkflowRunner(
            restrictions=SandboxRestrictions.default.with_passthrough_modules(*PASSED_THROUGH)
        ),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(TURNS):
        for name, runner in ways.items():
            # Workers load every workflow when they start: that is not a run's.
            await replay([], runner)
            started = time.process_time()
            await replay(histories, runner)
            best[name] = min(best[name], time.process_time() - started)
    print(f"{len(histories)} runs replayed")
    for name, way in (("sandbox_cpu_vs_none", "ours"), ("sdk_sandbox_cpu_vs_none", "sdk")):
        keep(
            name,
            value=best[way] / len(histories) * 1000,
            unit="CPU ms/run",
            peer=best["none"] / len(histories) * 1000,
            against="the same runs without a sandbox",
            higher_is_better=False,
        )


if __name__ == "__main__":
    asyncio.run(main())
