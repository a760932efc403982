"""A watch of a simulator to which something happens while matching events are posted, and the account at the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from contracts import names
from contracts.events import Cursor
from contracts.notices import Notice
from contracts.watch import WatchStatus
from tests.listeners.conftest import Watched, rules, until
from tests.listeners.posting import PostingSimulator
from tests.support.ledger import Account, account, given_to

__all__ = ["LONG_S", "Scene", "whatever_is_asked_for"]

LONG_S = 90.0
"""For what takes seconds on a machine that is not busy."""
_MATCHING = "HostAddedEvent"
_UNKNOWN, _KNOWN = rules(), rules()
_KNOWN["rules"][0]["on"] = [_MATCHING]
whatever_is_asked_for = pytest.mark.parametrize("ruled", [_UNKNOWN, _KNOWN], ids=["all events", "narrowed"])
"""Rules with a name that is not in vCenter's catalogue have it asked for all events."""


class Scene:
    """A watch that has begun. `begin` makes one; its workers are the test's."""

    def __init__(self, watched: Watched, begun_at: Cursor, hosts: Mapping[str, str]) -> None:
        self.watched, self.begun_at = watched, begun_at
        self.hosts = hosts
        """Workflow ID of each host by its name."""
        self._first_life = 0

    @classmethod
    async def begin(cls, watched: Watched) -> Scene:
        """Start the watch and wait until a reader is at work."""

        def names_of_hosts() -> dict[str, str]:
            try:
                return {str(each.name): watched.workflow_id(each) for each in watched.server.hosts()}
            finally:
                # Its session would die of what happens, too.
                watched.server.hang_up()

        hosts = await asyncio.to_thread(names_of_hosts)
        await watched.start()
        status = await until(watched.status, lambda status: status.cursor is not None and status.round >= 2, LONG_S)
        assert status.cursor is not None
        scene = cls(watched, status.cursor, hosts)
        scene._first_life = (await scene.act("event_log"))["life"]
        return scene

    async def act(self, action: str, **arguments: Any) -> Any:
        """Make something happen in the simulator."""
        return await asyncio.to_thread(self.server.act, action, **arguments)

    @property
    def server(self) -> PostingSimulator:
        """The simulator."""
        assert isinstance(self.watched.server, PostingSimulator)
        return self.watched.server

    async def backlog(self, count: int, matching: float = 0.1, **more: Any) -> None:
        """Post events in one go, a part of them matching."""
        await self.act("post_backlog", count=count, matching=matching, about=list(self.hosts), **more)

    @asynccontextmanager
    async def storm(self, rate_per_s: float = 100, matching: float = 0.2) -> AsyncIterator[None]:
        """Events are posted all the while: matching ones are handed over before it begins, and posted after it."""
        await self.act("storm", rate_per_s=rate_per_s, seconds=600, matching=matching, seed=3, about=list(self.hosts))
        await until(self.handed_over, lambda count: count >= 5, LONG_S)
        yield
        now = await self.posted()
        await until(self.posted, lambda count: count >= now + 5, LONG_S)
        await self.act("end_storms")

    @asynccontextmanager
    async def trouble(self) -> AsyncIterator[None]:
        """Matching events are posted during what happens in it, too."""
        before = await self.posted()
        yield
        await self.answers()
        await until(self.posted, lambda count: count >= before + 5, LONG_S)

    async def outage(self, seconds: float, **more: bool | int) -> None:
        """vCenter is away for so long, and back when this returns."""
        log = await self.act("event_log")
        await asyncio.to_thread(self.server.outage, seconds, **more)
        await asyncio.sleep(seconds)
        await self.answers()
        assert (await self.act("event_log"))["posted"] > log["posted"]

    async def answers(self) -> None:
        """Wait until the simulator is there."""

        async def look() -> bool:
            try:
                await self.act("event_log")
            except OSError:
                return False
            return True

        await until(look, bool, 300)

    async def ledger(self) -> dict[str, list[list[int]]]:
        """Keys of the matching events that were posted since the beginning, by workflow ID and life."""
        last_life = (await self.act("event_log"))["life"]
        found: dict[str, list[list[int]]] = {}
        for host, workflow_id in self.hosts.items():
            lives = [
                await self.act("posted_events", kind=_MATCHING, about=host, life=life)
                for life in range(self._first_life, last_life + 1)
            ]
            found[workflow_id] = [[key for key in lives[0] if key > self.begun_at.key], *lives[1:]]
        return found

    async def posted(self) -> int:
        """How many matching events were posted so far."""
        return sum(len(keys) for lives in (await self.ledger()).values() for keys in lives)

    async def handed_over(self) -> int:
        """How many events runs were given so far."""
        given = [await given_to(self.watched.client, workflow_id) for workflow_id in self.hosts.values()]
        return sum(len(keys) for runs in given for keys in runs.values())

    async def newest_handed_over(self) -> int:
        """The highest key that a run was given so far."""
        given = [await given_to(self.watched.client, workflow_id) for workflow_id in self.hosts.values()]
        return max(event.key for runs in given for events in runs.values() for event in events)

    async def account(self, status: WatchStatus | None = None) -> Account:
        """What became of everything that was posted so far."""
        posted = await self.ledger()
        given = {each: await given_to(self.watched.client, each) for each in posted}
        status = status or await self.watched.status()
        return account(posted, given, status.gaps, status.quarantined)

    async def notices(self) -> list[Notice]:
        """What people are told, in this order."""
        client, found = self.watched.client, []
        async for run in client.list_workflows(f"WorkflowId STARTS_WITH 'notice/{self.watched.vcenter}/'"):
            async for event in client.get_workflow_handle(run.id, run_id=run.run_id).fetch_history_events():
                if event.HasField("workflow_execution_started_event_attributes"):
                    payloads = event.workflow_execution_started_event_attributes.input.payloads
                    found += await client.data_converter.decode(payloads, [Notice])
        return sorted(found, key=lambda notice: notice.at)

    async def settled(self, timeout_s: float = LONG_S) -> Account:
        """Wait until everything that was posted is accounted for."""
        return await until(self.account, lambda said: not said.lost, timeout_s)

    async def end(self) -> tuple[Account, WatchStatus]:
        """Stop the watch once everything is accounted for; nothing was doubled, whoever still read."""
        await self.settled()
        await self.watched.watch.signal(names.STOP)
        status: WatchStatus = await asyncio.wait_for(self.watched.watch.result(), LONG_S)
        said = await self.account(status)
        assert said.given, said
        assert not said.lost | said.doubled | said.repeated | said.unknown, said
        return said, status
