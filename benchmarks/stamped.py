"""A workflow that says when its first code ran, to whoever is in the same process."""

import time

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from benchmarks.stamps import STAMPS
    from contracts import names
    from contracts.prepare import PrepareGpuHostInput

__all__ = ["StampedPrepareGpuHost"]


@workflow.defn(name=names.PREPARE_GPU_HOST)
class StampedPrepareGpuHost:
    """Has the name and the input of `PrepareGpuHost`."""

    @workflow.run
    async def run(self, order: PrepareGpuHostInput) -> None:
        """Leave the time: a measurement, which no replay depends on."""
        with workflow.unsafe.sandbox_unrestricted():
            STAMPS.put(time.time())
