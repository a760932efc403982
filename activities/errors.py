"""The one place where gpuwright's errors become Temporal's."""

from datetime import UTC, datetime
from typing import Any

from temporalio import activity
from temporalio.worker import ActivityInboundInterceptor, ExecuteActivityInput, Interceptor

from contracts.errors import GpuwrightError, to_application_error

__all__ = ["GpuwrightErrors"]


class GpuwrightErrors(Interceptor):
    """Turns every `GpuwrightError` of an activity into the `ApplicationError` with its name and retryability."""

    def intercept_activity(self, next: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """See `temporalio.worker.Interceptor`."""
        return _Inbound(next)


class _Inbound(ActivityInboundInterceptor):
    async def execute_activity(self, input: ExecuteActivityInput) -> Any:
        try:
            return await super().execute_activity(input)
        except GpuwrightError as error:
            # Without its causes: their tracebacks can exceed what Temporal keeps of a failure, words and all.
            asked = activity.info().scheduled_time  # the first attempt's
            raise to_application_error(error, (datetime.now(UTC) - asked).total_seconds()) from None
