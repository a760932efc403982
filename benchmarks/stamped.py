"""A workflow that says when its first code ran."""

import time

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.prepare import PrepareGpuHostInput

__all__ = ["StampedPrepareGpuHost"]


@workflow.defn(name=names.PREPARE_GPU_HOST)
class StampedPrepareGpuHost:
    """Has the name and the input of `PrepareGpuHost`."""

    @workflow.run
    async def run(self, order: PrepareGpuHostInput) -> float:
        """The wall clock (s since 1970): a measurement, which no replay depends on."""
        with workflow.unsafe.sandbox_unrestricted():
            return time.time()
