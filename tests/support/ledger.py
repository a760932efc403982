"""What became of each event that the simulator's ledger says was posted, by the histories of the runs it was given to.

An event is accounted for when its target's runs were given it, when the watch keeps it in quarantine, or when it lies
within a gap that the watch tells of. It is doubled when two runs were given it, and repeated when one run was given
it twice: of that one a target takes no notice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from temporalio.client import Client

from contracts import names
from contracts.events import EventKey
from contracts.prepare import HostEvents, PrepareGpuHostInput
from contracts.watch import Gap, QuarantinedEvent

__all__ = ["Account", "account", "given_to"]

Lives = Sequence[Sequence[int]]
"""Keys by life of vCenter, of one target; the first is the life in which the watch began."""
Runs = Mapping[str, Sequence[EventKey]]
"""Events by run ID, of one target."""


@dataclass
class Account:
    """Each is `target life key`."""

    given: set[str] = field(default_factory=set)
    quarantined: set[str] = field(default_factory=set)
    in_gaps: set[str] = field(default_factory=set)
    lost: set[str] = field(default_factory=set)
    doubled: set[str] = field(default_factory=set)
    repeated: set[str] = field(default_factory=set)
    shown_again: set[str] = field(default_factory=set)
    """Given under the next epoch, too: a restored vCenter shows events that it kept with the keys they had."""
    unknown: set[str] = field(default_factory=set)
    """Given and never posted."""

    def __str__(self) -> str:
        parts = {name: sorted(keys) for name, keys in vars(self).items()}
        return ", ".join(f"{len(keys)} {name} {' '.join(keys[:10])}".strip() for name, keys in parts.items())


def account(
    posted: Mapping[str, Lives],
    given: Mapping[str, Runs],
    gaps: Iterable[Gap] = (),
    quarantined: Iterable[QuarantinedEvent] = (),
) -> Account:
    """Hold the ledger against the runs, by target (a workflow ID). Epoch 0 of the watch is its first life."""
    gaps, kept_back, said = tuple(gaps), {(_number(each.epoch), each.key) for each in quarantined}, Account()
    for target, lives in posted.items():
        runs = [Counter((_number(event.epoch), event.key) for event in run) for run in given.get(target, {}).values()]
        known: set[tuple[int, int]] = set()
        for life, keys in enumerate(lives):
            # What was there when keys went back may come again in the next epoch.
            reissued_from = min(lives[life + 1], default=None) if life + 1 < len(lives) else None
            for key in keys:
                name, ways = f"{target} {life} {key}", [(life, key)]
                if life + 1 < len(lives) and (reissued_from is None or key < reissued_from):
                    ways.append((life + 1, key))
                known.update(ways)
                times = [sum(1 for run in runs if run[way]) for way in ways]
                if any(count > 1 for count in times):
                    said.doubled.add(name)
                if any(run[way] > 1 for run in runs for way in ways):
                    said.repeated.add(name)
                if all(times) and len(times) > 1:
                    said.shown_again.add(name)
                if any(times):
                    said.given.add(name)
                elif (life, key) in kept_back:
                    said.quarantined.add(name)
                elif any(_within(gap, life, key) for gap in gaps):
                    said.in_gaps.add(name)
                else:
                    said.lost.add(name)
        said.unknown |= {f"{target} {life} {key}" for run in runs for life, key in run if (life, key) not in known}
    return said


async def given_to(client: Client, workflow_id: str) -> dict[str, list[EventKey]]:
    """The events that each run of a host's preparation was started with or signalled, by its history."""
    found: dict[str, list[EventKey]] = {}
    async for run in client.list_workflows(f"WorkflowId = '{workflow_id}'"):
        keys = found.setdefault(run.run_id, [])
        async for event in client.get_workflow_handle(workflow_id, run_id=run.run_id).fetch_history_events():
            if event.HasField("workflow_execution_started_event_attributes"):
                payloads = event.workflow_execution_started_event_attributes.input.payloads
                [order] = await client.data_converter.decode(payloads, [PrepareGpuHostInput])
                keys += order.events
            elif event.HasField("workflow_execution_signaled_event_attributes"):
                signal = event.workflow_execution_signaled_event_attributes
                if signal.signal_name == names.HOST_EVENTS:
                    [message] = await client.data_converter.decode(signal.input.payloads, [HostEvents])
                    keys += message.events
    return found


def _number(epoch: str) -> int:
    return int(epoch.rpartition(".")[2])


def _within(gap: Gap, life: int, key: int) -> bool:
    return _number(gap.epoch) == life and gap.after_key < key and (key < gap.before_key or gap.before_key == 0)
