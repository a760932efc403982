"""`DeliverNotice`: one a notice. It tells people in every channel, side by side, and remembers what became of it."""

import asyncio

from temporalio import workflow
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import names
    from contracts.notice_activities import NoticeActivities
    from contracts.notices import Delivered, Notice, NoticeReport, SendNotice

from workflows import policies
from workflows.story import cut, plain

__all__ = ["DeliverNotice"]


@workflow.defn(name=names.DELIVER_NOTICE)
class DeliverNotice:
    """Ends when each channel has taken the notice, or was given up after a day."""

    @workflow.init
    def __init__(self, notice: Notice) -> None:
        self._report = NoticeReport(notice=notice)

    @workflow.query(name=names.QUERY_REPORT)
    def report(self) -> NoticeReport:
        """What became of it so far."""
        return self._report

    @workflow.run
    async def run(self, notice: Notice) -> NoticeReport:
        """Tell it; the result says in which channels it was told."""
        self._show()
        channels = await workflow.execute_activity_method(
            NoticeActivities.notice_channels,
            task_queue=policies.wait_queue(),
            summary="which channels there are",
            **policies.tell(),
        )
        self._tell(NoticeReport(notice=notice, pending=channels.names))
        await asyncio.gather(*(self._send(name) for name in channels.names))
        return self._report

    async def _send(self, channel: str) -> None:
        """Tell it in one channel; a channel that fails ends only itself."""
        notice, trouble = self._report.notice, ""
        try:
            await workflow.execute_activity_method(
                NoticeActivities.send_notice,
                SendNotice(notice=notice, channel=channel),
                task_queue=policies.wait_queue(),
                summary=channel,
                **policies.tell(),
            )
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            trouble = _words(error)
            workflow.logger.warning("notice %s was not told in %s: %s", notice.id, channel, trouble)
        self._tell(
            NoticeReport(
                notice=notice,
                channels=(*self._report.channels, Delivered(channel=channel, trouble=trouble)),
                pending=tuple(name for name in self._report.pending if name != channel),
            )
        )

    def _tell(self, report: NoticeReport) -> None:
        self._report = report
        self._show()

    def _show(self) -> None:
        workflow.set_current_details(_details(self._report))


def _words(error: ActivityError) -> str:
    cause = error.cause
    # A time-out carries what the last attempt failed with.
    last = getattr(cause, "cause", None) if not isinstance(cause, ApplicationError) else cause
    return f"{last.type}: {last.message}" if isinstance(last, ApplicationError) else str(cause or error)


def _details(report: NoticeReport) -> str:
    """The run's current details, as Markdown."""
    notice = report.notice
    lines = [
        f"**{plain(notice.subject, 200)}** ({notice.severity}): {plain(notice.happened, 2000)}",
        "",
        plain(notice.means, 2000),
        "",
        plain(notice.advice, 2000),
        "",
    ]
    if notice.clears:
        lines += [f"Clears `{notice.clears}`.", ""]
    rows = [
        (done.channel, f"given up: {plain(done.trouble, 600)}" if done.trouble else "told") for done in report.channels
    ]
    rows += [(name, "being told") for name in report.pending]
    if rows:
        lines += ["| channel | state |", "|---|---|", *(f"| {plain(name, 200)} | {state} |" for name, state in rows)]
    return cut("\n".join(lines))
