"""What was ever posted, whatever became of it: tests hold against it what was handed over."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from simulator.logged_event import LoggedEvent

__all__ = ["EventLedger"]


@dataclass(slots=True)
class _Life:
    """The events between two restores, in the order of their keys; a few bytes each, as there may be a million."""

    keys: array[int] = field(default_factory=lambda: array("i"))
    names: list[frozenset[str]] = field(default_factory=list)
    about: list[frozenset[str]] = field(default_factory=list)
    hidden: bytearray = field(default_factory=bytearray)


class EventLedger:
    """Keys of all events, life by life: purges and restores take nothing out of it.

    A new life begins with each restore, and wherever keys go back.
    """

    def __init__(self) -> None:
        self._lives = [_Life()]

    @property
    def life(self) -> int:
        """The present life; the first is 0."""
        return len(self._lives) - 1

    @property
    def posted(self) -> int:
        """How many events were posted in all lives."""
        return sum(len(life.keys) for life in self._lives)

    def begin_life(self) -> None:
        """Say that keys are given out again from now on."""
        self._lives.append(_Life())

    def record(self, events: Sequence[LoggedEvent]) -> None:
        """Take down what was posted."""
        for event in events:
            life = self._lives[-1]
            if life.keys and event.key <= life.keys[-1]:
                self.begin_life()
                life = self._lives[-1]
            life.keys.append(event.key)
            life.names.append(event.names)
            life.about.append(event.about)
            life.hidden.append(event.hidden)

    def keys(
        self, kind: str = "*", about: str | None = None, life: int | None = None, hidden: bool | None = False
    ) -> list[int]:
        """Keys of one life (the present one, unless told), in the order of posting.

        `kind` is a glob that a name of the event's type, of a base type or its `eventTypeId` matches; `about` the
        moid of an entity that it names; `hidden` None counts those that nobody may see, too. Raises `ValueError` for a
        life that has not been.
        """
        if life is not None and not 0 <= life <= self.life:
            raise ValueError(f"life: {life} has not been: there are 0 to {self.life}")
        found = self._lives[self.life if life is None else life]
        wanted: dict[frozenset[str], bool] = {}
        for names in set(found.names):
            wanted[names] = any(fnmatchcase(name, kind) for name in names)
        return [
            key
            for key, names, moids, unseen in zip(found.keys, found.names, found.about, found.hidden, strict=True)
            if wanted[names] and (about is None or about in moids) and (hidden is None or bool(unseen) is hidden)
        ]
