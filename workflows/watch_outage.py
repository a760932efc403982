"""Trouble of a reader that lasts: people are told when it does, and when it is over.

All the trouble that comes back before it has been over for a while is one outage, so that a vCenter or a webhook that
comes and goes is told once. What is known travels with the run's input, so that an outage outlasts the runs.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from temporalio import workflow

with workflow.unsafe.imports_passed_through():
    from contracts.events import Cursor
    from contracts.notices import Notice
    from contracts.watch import Outage

__all__ = ["OutageGuard", "OutageNotices"]

_CALM_S = 30.0
"""It has to work for so long, or for as long as trouble has to last, before an outage is over."""


class OutageNotices(NamedTuple):
    """What people are told of an outage, each from the outage, the time and the ID of the run that tells it."""

    begin: Callable[[Outage, datetime, str], Notice]
    """It lasts."""
    end: Callable[[Outage, datetime, str], Notice]
    """It is over."""
    stop: Callable[[Outage, datetime, str], Notice]
    """Nobody wants the events any more."""


class OutageGuard:
    """Keeps the outage of one watch or forward."""

    def __init__(
        self,
        notices: OutageNotices,
        outage: Outage | None,
        limit_s: float,
        tell: Callable[[Notice], None],
        changed: Callable[[], None],
    ) -> None:
        """`limit_s`: how long events may stay unread before people are told. `changed` shows the outage anew."""
        self._notices = notices
        self.outage = outage
        self.limit_s = limit_s
        self._tell = tell
        self._changed = changed
        self._guarding: asyncio.Task[None] | None = None

    def fares(self, trouble: str, cursor: Cursor | None, since: datetime | None = None) -> None:
        """What keeps the reader from reading now, since when if that is not now; empty when nothing does."""
        now, known = workflow.now(), self.outage
        if trouble and known is None:
            self.outage = Outage(since=since or now, trouble=trouble, cursor=cursor)
        elif trouble and known is not None:
            self.outage = known.model_copy(update={"trouble": trouble, "over_since": None})
        elif known is not None and known.over_since is None:
            self.outage = known.model_copy(update={"over_since": now})

    def found_gaps(self, count: int) -> None:
        """So many gaps were found."""
        if self.outage is not None:
            self.outage = self.outage.model_copy(update={"gaps": self.outage.gaps + count})

    def begin(self) -> None:
        """Guard until `pause`."""
        self._guarding = asyncio.create_task(self._guard())

    def pause(self) -> None:
        """Tell nothing any more, until `begin` or in another run."""
        if self._guarding is not None:
            self._guarding.cancel()

    def stop(self) -> None:
        """Nobody wants the events any more: what people were told is taken back."""
        if self.outage is not None and self.outage.notice_id:
            self._tell(self._notices.stop(self.outage, workflow.now(), workflow.info().workflow_id))
        self.outage = None

    async def _guard(self) -> None:
        while True:
            due = self._due()
            if due is not None and due <= workflow.now():
                self._act()
            else:
                await self._until_other_than(due)

    async def _until_other_than(self, due: datetime | None) -> None:
        """Wait until there is something else to do than was due then, or until that."""
        try:
            await workflow.wait_condition(
                lambda: self._due() != due,
                timeout=None if due is None else due - workflow.now(),
                timeout_summary="whether the trouble lasts, or is over",
            )
        except TimeoutError:
            return

    def _due(self) -> datetime | None:
        """When there is something to do, unless it changes before."""
        if self.outage is None:
            return None
        if self.outage.over_since is not None:
            return self.outage.over_since + timedelta(seconds=min(_CALM_S, self.limit_s))
        return None if self.outage.notice_id else self.outage.since + timedelta(seconds=self.limit_s)

    def _act(self) -> None:
        outage, now, by = self.outage, workflow.now(), workflow.info().workflow_id
        if outage is None:
            return
        if outage.over_since is not None:
            self.outage = None
            if outage.notice_id:
                self._tell(self._notices.end(outage, now, by))
        else:
            notice = self._notices.begin(outage, now, by)
            self.outage = outage.model_copy(update={"notice_id": notice.id})
            self._tell(notice)
        self._changed()
