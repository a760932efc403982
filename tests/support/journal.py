"""What processes were working on when they were killed: a file that outlives them, and orders where to be killed.

A process appends a line when it begins a piece of work and one when it ends it, each by one write, so a line is there
even when the next instruction kills the process. What was begun and never ended was under way. Times are of the
monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

__all__ = ["KILLED", "Journal", "KillOrder", "Line", "Reader", "Work"]

KILLED = "killed"
_TEXT = 500


@dataclass(frozen=True)
class KillOrder:
    """SIGKILL for a process, at the first point that fits."""

    number: int
    who: str
    """The process that has the point."""
    at: str
    """A regular expression for the text of a piece of work."""
    when: str
    """`before` it, `after` it while nobody knows yet, or `during` it."""
    after_s: float = 0.0
    """With `during`: so long after it was begun, if it still goes on then."""
    pid: int = 0
    """Who is killed; 0 is the process that has the point."""

    def give(self, folder: Path) -> None:
        """Have it carried out once, by whoever comes to such a point first."""
        draft = folder / "order.draft"
        draft.write_text(json.dumps(asdict(self)))
        draft.rename(folder / "order")

    @staticmethod
    def take(folder: Path) -> bool:
        """Take the order away, to carry it out or to give another one; False when somebody else has taken it."""
        try:
            (folder / "order").rename(folder / "order.taken")
        except FileNotFoundError:
            return False
        return True


class Journal:
    """The writing side, of a process called `who`."""

    def __init__(self, folder: Path, who: str) -> None:
        self.who = who
        self._folder = folder
        self._file = os.open(folder / "journal", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self._numbers = itertools.count(1)
        self._open: set[int] = set()

    def tell(self, mark: str, text: str = "", number: int = 0, pid: int = 0) -> None:
        """Append a line."""
        line = [time.monotonic(), self.who, pid or os.getpid(), mark, number, text[:_TEXT]]
        os.write(self._file, json.dumps(line).encode() + b"\n")

    def begin(self, text: str) -> int:
        """Begin a piece of work; its number."""
        number = next(self._numbers)
        self._open.add(number)
        self.tell("begin", text, number)
        if order := self._order(text, "before"):
            self._carry_out(order, text)
        if order := self._order(text, "during"):
            threading.Timer(order.after_s, self._carry_out, (order, text, number)).start()
        return number

    def end(self, number: int, text: str = "") -> None:
        """End a piece of work; `text` says how."""
        self._open.discard(number)
        self.tell("end", text, number)

    @contextmanager
    def work(self, text: str) -> Iterator[None]:
        """A piece of work, which may end with an error."""
        number = self.begin(text)
        try:
            yield
        except BaseException as error:
            self.end(number, repr(error))
            raise
        self.done(number, text)

    def done(self, number: int, text: str) -> None:
        """The piece of work that this text began is done; nobody was told so far."""
        if order := self._order(text, "after"):
            self._carry_out(order, text)
        self.end(number)

    def _order(self, text: str, when: str) -> KillOrder | None:
        try:
            order = KillOrder(**json.loads((self._folder / "order").read_text()))
        except FileNotFoundError:
            return None
        return order if (order.who, order.when) == (self.who, when) and re.search(order.at, text) else None

    def _carry_out(self, order: KillOrder, text: str, during: int | None = None) -> None:
        if (during is None or during in self._open) and KillOrder.take(self._folder):
            self.tell("kill", f"{order.when} {text}", order.number, order.pid)
            os.kill(order.pid or os.getpid(), signal.SIGKILL)
            self.tell("killed", text, order.number, order.pid)


@dataclass(frozen=True)
class Line:
    """One line of the journal; `number` is that of the piece of work, or of the order."""

    time: float
    who: str
    pid: int
    mark: str
    number: int
    text: str


@dataclass(frozen=True)
class Work:
    """A piece of work; one that still goes on has no `ended`."""

    who: str
    pid: int
    text: str
    begun: float
    ended: float | None = None
    end: str = ""
    """How it ended: `KILLED` with its process."""


class Reader:
    """The reading side."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "journal"
        self._read = 0
        self._told: list[Line] = []
        self._work: dict[tuple[int, int], Work] = {}

    def told(self) -> list[Line]:
        """All lines so far that are not about pieces of work."""
        self._read_on()
        return self._told

    def work(self) -> list[Work]:
        """All pieces of work so far, in the order of their beginnings."""
        self._read_on()
        return list(self._work.values())

    def _read_on(self) -> None:
        with self._path.open("rb") as file:
            file.seek(self._read)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._read += len(whole) + len(newline)
        for line in map(json.loads, whole.splitlines()):
            self._take(Line(*line))

    def _take(self, line: Line) -> None:
        key = line.pid, line.number
        if line.mark == "begin":
            self._work[key] = Work(line.who, line.pid, line.text, line.time)
        elif line.mark == "end":
            self._work[key] = replace(self._work[key], ended=line.time, end=line.text)
        else:
            self._told.append(line)
        if line.mark == "died":
            for key, work in self._work.items():
                if work.pid == line.pid and work.ended is None:
                    self._work[key] = replace(work, ended=line.time, end=KILLED)
