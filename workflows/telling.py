"""Having people told of something, beside whatever else a workflow does."""

import asyncio

from temporalio import workflow
from temporalio.common import SearchAttributePair, TypedSearchAttributes, WorkflowIDReusePolicy
from temporalio.exceptions import FailureError, WorkflowAlreadyStartedError
from temporalio.workflow import ParentClosePolicy

with workflow.unsafe.imports_passed_through():
    from contracts import ids, names, search_attributes
    from contracts.notices import Notice

from workflows.story import plain

__all__ = ["Teller"]


class Teller:
    """Starts a run for each notice, which goes on whatever becomes of the one that started it."""

    def __init__(self) -> None:
        self._starting: set[asyncio.Task[None]] = set()
        self.trouble = ""
        """Why a notice could not be started; empty when the last one was."""

    def tell(self, notice: Notice) -> None:
        """Have people told, once: a notice that was told before is not told again."""
        starting = asyncio.create_task(self._start(notice))
        self._starting.add(starting)
        starting.add_done_callback(self._starting.discard)

    async def started(self) -> None:
        """Wait until Temporal has all of them; before that the run must not end."""
        await workflow.wait_condition(lambda: not self._starting)

    async def _start(self, notice: Notice) -> None:
        try:
            await workflow.start_child_workflow(
                names.DELIVER_NOTICE,
                notice,
                id=ids.notice(notice.vcenter, notice.id),
                id_reuse_policy=WorkflowIDReusePolicy.REJECT_DUPLICATE,
                parent_close_policy=ParentClosePolicy.ABANDON,
                static_summary=plain(notice.happened, 200),
                search_attributes=TypedSearchAttributes(
                    [SearchAttributePair(search_attributes.GPU_VCENTER, search_attributes.cut(notice.vcenter))]
                ),
            )
        except WorkflowAlreadyStartedError:
            workflow.logger.info("notice %s was told before", notice.id)
        except FailureError as error:
            self.trouble = f"people were not told of {notice.id}: {error}"
            workflow.logger.warning("%s", self.trouble)
            return
        self.trouble = ""
