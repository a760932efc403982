"""Kills the two processes of a service, and its Temporal server, and tells what each kill hit."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tests.support.journal import KILLED, Journal, KillOrder, Line, Reader, Work
from workers.temporal_server import DevServer

__all__ = ["Hit", "Killer", "Point"]

T = TypeVar("T")

_BORN_S, _REACHED_S = 60.0, 60.0
_PATIENCE_S = 10.0
"""After so long any work of the same process will do as a point."""
_ANY = {"listener": "^(page|hand-over|call)", "worker": "^(activity|task)"}


@dataclass(frozen=True)
class Point:
    """Where a kill hits `victim`: at work of the process `who` (see `KillOrder`); without `at`, at any moment."""

    victim: str
    who: str = ""
    at: str = ""
    when: str = "during"
    after_s: float = 0.0


@dataclass(frozen=True)
class Hit:
    """A kill."""

    number: int
    point: Point
    begun: float
    """Just before the signal was sent; monotonic."""
    ended: float
    """Just after that. The same for a process that killed itself: it did nothing afterwards."""
    pid: int
    text: str
    """Where it hit, as the killer tells."""

    def evidence(self, work: Sequence[Work], waiting: Callable[[int, float], bool]) -> list[str]:
        """What was under way at that moment; none where nothing was.

        Of a process what it had begun and never ended. Of Temporal what others had begun and
        could not end without it: calls to it, and tasks and activities whose results it has yet to be told.
        `waiting(cursor, time)`: whether there were events to hand over beyond the cursor then, for a read in vain is no
        work.
        """
        if self.point.victim == "temporal":
            mine = [each for each in work if each.begun <= self.begun and (each.ended or self.ended) >= self.ended]
        else:
            mine = [each for each in work if each.pid == self.pid and each.end == KILLED]
        return [
            each.text
            for each in mine
            if not each.text.startswith("read") or waiting(int(each.text.split()[-1]), self.begun)
        ]


class Killer:
    """Carries kills out one after the other, and starts Temporal again; the service does so by itself."""

    def __init__(self, folder: Path, server: DevServer, dice: random.Random) -> None:
        self.hits: list[Hit] = []
        self.reader = Reader(folder)
        self._folder, self._server, self._dice = folder, server, dice
        self._journal = Journal(folder, "killer")

    async def kill(self, number: int, point: Point) -> Hit:
        """Kill, and wait until the victim is dead and its successor is there; it need not be at work yet."""
        pid = await self._find(point.victim)
        hit = await (self._at(number, point, pid) if point.at else self._at_any_moment(number, point, pid))
        self.hits.append(hit)
        await self._bury(hit)
        return hit

    async def _find(self, victim: str) -> int:
        """The living one's process ID."""
        if victim == "temporal":
            assert self._server.pid is not None
            return self._server.pid
        return (await self._until(lambda: self._living(victim), _BORN_S, f"no {victim} serves")).pid

    def _living(self, who: str) -> Line | None:
        last = [line for line in self.reader.told() if line.who == who and line.mark in ("serves", "died")][-1:]
        return last[0] if last and last[0].mark == "serves" else None

    async def _at(self, number: int, point: Point, pid: int) -> Hit:
        order = KillOrder(
            number, point.who, point.at, point.when, point.after_s, pid if point.victim != point.who else 0
        )
        order.give(self._folder)
        try:
            told = await self._until(lambda: self._told(number), _PATIENCE_S, "")
        except TimeoutError:
            if KillOrder.take(self._folder):
                KillOrder(number, point.who, _ANY[point.who], "after", 0, order.pid).give(self._folder)
            told = await self._until(lambda: self._told(number), _REACHED_S, f"nobody came to {point}")
        ended = told
        if order.pid:
            ended = await self._until(lambda: self._told(number, "killed"), _BORN_S, "the killer does not go on")
        return Hit(number, point, told.time, ended.time, told.pid, told.text)

    def _told(self, number: int, mark: str = "kill") -> Line | None:
        return next((line for line in self.reader.told() if (line.mark, line.number) == (mark, number)), None)

    async def _at_any_moment(self, number: int, point: Point, pid: int) -> Hit:
        await asyncio.sleep(self._dice.uniform(0, point.after_s))
        begun = time.monotonic()
        os.kill(pid, signal.SIGKILL)
        ended = time.monotonic()
        self._journal.tell("kill", "any moment", number, pid)
        return Hit(number, point, begun, ended, pid, "any moment")

    async def _bury(self, hit: Hit) -> None:
        if hit.point.victim == "temporal":
            process = self._server._process
            assert process is not None
            assert await asyncio.to_thread(process.wait, 30) == -signal.SIGKILL
            await asyncio.to_thread(self._server.stop)
            await self._server.start()
            return
        dead = await self._until(lambda: self._death(hit.pid), _BORN_S, f"process {hit.pid} does not die")
        assert dead.text == str(-signal.SIGKILL), f"{hit.point.victim} ended with {dead.text}"

    def _death(self, pid: int) -> Line | None:
        return next((line for line in self.reader.told() if (line.mark, line.pid) == ("died", pid)), None)

    async def _until(self, look: Callable[[], T | None], timeout_s: float, otherwise: str) -> T:
        ends_at = time.monotonic() + timeout_s
        while (found := look()) is None:
            if time.monotonic() > ends_at:
                raise TimeoutError(f"{otherwise} within {timeout_s:g} s")
            await asyncio.sleep(0.02)
        return found
