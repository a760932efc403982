"""Actions on the event log: backlogs, storms, what breaks readers, and what became of all that was posted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from datetime import datetime, timedelta
from typing import Any

from pyVmomi import vim

from simulator.core import Managed, Registry
from simulator.event_mix import EventMix
from simulator.event_templates import EventTemplate
from simulator.poison import POISONS, poison

__all__ = ["event_knobs"]

_MOST_EVENTS, _MOST_A_SECOND = 1_000_000, 50_000
_TICK_S = 0.02


def event_knobs(
    registry: Registry, start: Callable[[Coroutine[Any, Any, None]], object]
) -> dict[str, Callable[..., Any]]:
    """The actions; hosts and VMs are told by name or moid. `start` lets something go on in the background.

    They raise `KeyError` for unknown names and `ValueError`.
    """
    log = registry.events
    storms: list[_Storm] = []

    def mix(count: int, matching: float, matching_type: str, about: list[str] | None, seed: int) -> EventMix:
        if not 1 <= count <= _MOST_EVENTS:
            raise ValueError(f"{count} events are not between 1 and {_MOST_EVENTS}")
        return EventMix(registry, count, matching, matching_type, _entities(registry, about), seed)

    def post_backlog(
        count: int,
        matching: float = 0.01,
        seed: int = 0,
        matching_type: str = "HostAddedEvent",
        about: list[str] | None = None,
        over_s: float = 0.0,
    ) -> dict[str, Any]:
        """Log events as they come up in a vCenter, in one go; see `EventMix`.

        The matching ones are about the hosts and VMs named in `about`, or about all hosts. All were created now, or
        evenly over the last `over_s` seconds (but not before events that are there). Returns the `first` and `last`
        key, and the keys that are `matching`.
        """
        events = mix(count, matching, matching_type, about, seed)
        if over_s < 0:
            raise ValueError(f"over_s: {over_s} s have not passed yet")
        keys = log.post_many(_spread(registry, events, over_s))
        return {"first": keys[0], "last": keys[-1], "matching": [keys[n] for n in events.matching]}

    def post_hidden_events(
        count: int, seed: int = 0, matching: float = 0.0, matching_type: str = "HostAddedEvent"
    ) -> list[int]:
        """Log a run of events that no reader may see; returns their keys. See `post_backlog`."""
        events = mix(count, matching, matching_type, None, seed)
        return log.post_many(_spread(registry, events, 0.0), hidden=True)

    def storm(
        rate_per_s: float,
        seconds: float,
        matching: float = 0.01,
        seed: int = 0,
        matching_type: str = "HostAddedEvent",
        about: list[str] | None = None,
    ) -> int:
        """Begin to log `rate_per_s` events a (real) second, for so long; returns its number. See `post_backlog`."""
        if not 0 < rate_per_s <= _MOST_A_SECOND:
            raise ValueError(f"rate_per_s: {rate_per_s} is not between 0 and {_MOST_A_SECOND}")
        begun = _Storm(registry, mix(round(rate_per_s * seconds), matching, matching_type, about, seed), rate_per_s)
        storms.append(begun)
        start(begun.rage())
        return len(storms) - 1

    def storms_so_far() -> list[dict[str, Any]]:
        """Of each storm, how many events it has `posted`, of how many in all (`count`); over when they are equal."""
        return [{"posted": each.mix.count - each.mix.left, "count": each.mix.count} for each in storms]

    def end_storms() -> None:
        """Let all storms post nothing more."""
        for each in storms:
            each.ended = True

    def post_poison(
        host: str, kinds: list[str] | None = None, event_type: str = "HostAddedEvent", size: int = 3 * 2**20
    ) -> dict[str, int]:
        """Log events about a host that are wrong in these ways, or in all of them; returns their keys by kind.

        See `POISONS`. `size` is how many characters the message of an `oversized` one has.
        """
        (found,) = _entities(registry, [host])
        wrong = [(kind, *poison(kind, event_type, found.read("name"), found.moid, size)) for kind in kinds or POISONS]
        return {kind: log.post_raw(wsdl_type, xml, about=(found.moid,))[0] for kind, wsdl_type, xml in wrong}

    def purge_events(keep: int | None = None, older_than_s: float | None = None) -> int:
        """Retention: drop all but the newest `keep`, or those older than that; returns how many are gone."""
        if (keep is None) == (older_than_s is None):
            raise ValueError("give either `keep` or `older_than_s`")
        if keep is not None and keep < 0:
            raise ValueError(f"keep: {keep} is negative")
        before = None if older_than_s is None else registry.clock.now() - timedelta(seconds=older_than_s)
        return log.purge(keep, before)

    def restore_vcenter(lose: int | None = None, lose_s: float | None = None) -> int:
        """vCenter comes back from a backup without its newest `lose` events, or those of the last `lose_s` seconds.

        Its instance UUID stays; all sessions are gone, and keys go on behind the newest event that is left. Returns
        the next key.
        """
        if (lose is None) == (lose_s is None):
            raise ValueError("give either `lose` or `lose_s`")
        if lose_s is not None:
            since = registry.clock.now() - timedelta(seconds=lose_s)
            lose = sum(1 for event in log.forwards(0) if event.created > since)
        return log.restore(lose or 0)

    def step_clock(seconds: float) -> None:
        """vCenter's clock is set forward by so many seconds, or back where they are negative."""
        registry.clock.ahead += timedelta(seconds=seconds)

    def set_next_event_key(key: int) -> None:
        """Keys go on from here, lower ones as after a restore that nobody noticed."""
        if not 0 < key < 2**31:
            raise ValueError(f"key: {key} is no key of an event")
        log.next_key = key

    def stall_collectors(silent: bool = False) -> int:
        """The event collectors that there are show nothing new any more by `ReadNextEvents`; returns how many.

        With `silent`, their `latestPage` does not change either. New collectors are as they should be.
        """
        for collector in log.collectors:
            collector.stall(silent)
        return len(log.collectors)

    def posted_events(
        kind: str = "*", about: str | None = None, life: int | None = None, hidden: bool | None = False
    ) -> list[int]:
        """Keys of what was ever posted in a life of vCenter, kept or not; see `EventLedger.keys`."""
        moid = _entities(registry, [about])[0].moid if about is not None else None
        return log.ledger.keys(kind, moid, life, hidden)

    def event_log() -> dict[str, Any]:
        """The log: its `life`, `posted` in all lives, `kept`, `first_key`, `next_key`, and each collector's state."""
        first = next(log.forwards(0), None)
        collectors = [{"stalled": each.stalled, "behind": each.behind()} for each in log.collectors]
        return {
            "life": log.ledger.life,
            "posted": log.ledger.posted,
            "kept": len(log),
            "first_key": first.key if first is not None else None,
            "next_key": log.next_key,
            "collectors": collectors,
        }

    return {
        action.__name__: action
        for action in (
            post_backlog, post_hidden_events, storm, storms_so_far, end_storms, post_poison, purge_events,
            restore_vcenter, step_clock, set_next_event_key, stall_collectors, posted_events, event_log,
        )
    }  # fmt: skip


class _Storm:
    """Posts a mix at a rate until there is none left."""

    def __init__(self, registry: Registry, mix: EventMix, rate_per_s: float) -> None:
        self.registry = registry
        self.mix = mix
        self.rate_per_s = rate_per_s
        self.ended = False

    async def rage(self) -> None:
        """Post what is due, tick by tick."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        while self.mix.left and not self.ended:
            posted = self.mix.count - self.mix.left
            due = int((loop.time() - begun + _TICK_S) * self.rate_per_s) - posted
            now = self.registry.clock.now()
            self.registry.events.post_many((template, now) for template in self.mix.take(max(0, due)))
            await asyncio.sleep(_TICK_S)


def _spread(registry: Registry, mix: EventMix, over_s: float) -> Iterator[tuple[EventTemplate, datetime]]:
    """A whole mix with the times at which its events were created."""
    now = registry.clock.now()
    begin = now - timedelta(seconds=over_s)
    if (newest := next(registry.events.backwards(registry.events.end_serial), None)) is not None:
        begin = min(now, max(begin, newest.created))
    step = (now - begin) / mix.count
    for number, template in enumerate(mix.take(mix.count), 1):
        yield template, begin + step * number if step else now


def _entities(registry: Registry, named: list[str] | None) -> list[Managed]:
    """Hosts and VMs by name or moid, all hosts without names; raises `KeyError` with a name that nobody has."""
    kinds = (vim.HostSystem, vim.VirtualMachine) if named is not None else (vim.HostSystem,)
    candidates = [each for each in registry.objects.values() if issubclass(each.vim_type, kinds)]
    if named is None:
        return candidates
    known = {each.moid: each for each in candidates}
    known |= {str(each.read("name")): each for each in candidates} if not known.keys() >= set(named) else {}
    for name in named:
        if name not in known:
            raise KeyError(f"no host or VM is named {name!r}")
    return [known[name] for name in named]
