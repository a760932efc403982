"""Which events are of things done on purpose: asks vCenter and the clusters' gates, and tells the runs at work."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import structlog
from temporalio.client import Client, WorkflowQueryFailedError, WorkflowQueryRejectedError
from temporalio.common import QueryRejectCondition
from temporalio.service import RPCError, RPCStatusCode

from contracts import ids, names
from contracts.gate import GateStatus, Lease
from listeners.causes import NOTHING_TOLD, Told, cause_of, concerns, lease_of, needs_look, told
from listeners.hand_over import HandOver
from listeners.reading import Reading
from listeners.rules import Match
from vsphere.events import RawEvent
from vsphere.inventory import IndexedHost

__all__ = ["Purposes"]

_log = structlog.get_logger(__name__)

_GATE_S = 3.0
"""For a gate's answer; below the heartbeat time-out. Without one the audit is started, which ends by itself."""


class Purposes:
    """What one reader of one vCenter's events knows of its hosts."""

    def __init__(self, vcenter: str, client: Client, hand_over: HandOver, reading: Reading) -> None:
        self._vcenter = vcenter
        self._client = client
        self._hand_over = hand_over
        self._reading = reading
        self._told: Mapping[str, Told] = {}

    async def unplanned(
        self,
        events: Sequence[RawEvent],
        matches: Sequence[Match],
        hosts: Mapping[str, IndexedHost],
        epoch: str,
        still_here: Callable[[], None],
    ) -> tuple[list[Match], int]:
        """The matches without those of audits for what was done on purpose, and how many events those are.

        `events` are those of a page that tell how hosts stand or are of matches, in order. An event of a host that
        gpuwright works on goes to the run that does. Raises `GpuwrightError` when vCenter does not answer, `RPCError`
        when Temporal refuses.
        """
        at, self._told = told(events, self._told)
        asked = {match.event.key: match.event for match in matches if concerns(match.rule, match.event)}
        if not asked:
            return list(matches), 0
        unclear = sorted({e.host_moid for e in asked.values() if needs_look(at.get(e.key, NOTHING_TOLD))})
        modes, now = await self._reading.modes(unclear) if unclear else ({}, None)
        working = await self._told_to_runs(list(asked.values()), hosts, epoch, still_here)
        planned = set()
        for event in asked.values():
            standing = at.get(event.key, NOTHING_TOLD)
            cause = cause_of(event, standing, modes.get(event.host_moid), now, leased=event.key in working)
            if cause is not None:
                planned.add(event.key)
                _log.info("on_purpose", key=event.key, type_name=event.type_name, host=event.host_name, why=cause.value)
        left = [match for match in matches if not (match.event.key in planned and concerns(match.rule, match.event))]
        return left, len(planned)

    async def _told_to_runs(
        self,
        events: Sequence[RawEvent],
        hosts: Mapping[str, IndexedHost],
        epoch: str,
        still_here: Callable[[], None],
    ) -> set[int]:
        """Keys of the events of leased hosts, now that the runs that work on them were told."""
        clusters = sorted({host.cluster_moid for e in events if (host := hosts.get(e.host_moid)) and host.cluster_moid})
        still_here()
        leases = [lease for some in await asyncio.gather(*map(self._leases, clusters)) for lease in some]
        still_here()
        by_run: dict[str, list[RawEvent]] = {}
        for event in events:
            if lease := lease_of(event, leases):
                by_run.setdefault(lease.request.workflow_id, []).append(event)
        working: set[int] = set()
        for workflow_id, some in by_run.items():
            if await self._hand_over.tell(workflow_id, self._vcenter, epoch, some, still_here):
                working |= {event.key for event in some}
            else:
                _log.warning("lease_without_run", workflow_id=workflow_id, keys=[event.key for event in some])
        return working

    async def _leases(self, cluster_moid: str) -> Sequence[Lease]:
        """Who works in the cluster; nobody where its gate does not say."""
        gate = self._client.get_workflow_handle(ids.cluster_gate(self._vcenter, cluster_moid))
        try:
            async with asyncio.timeout(_GATE_S):
                status: GateStatus = await gate.query(
                    names.QUERY_STATUS, result_type=GateStatus, reject_condition=QueryRejectCondition.NOT_OPEN
                )
            return status.leases
        except WorkflowQueryRejectedError:
            # It ended: nothing is leased.
            return ()
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return ()
            trouble = str(error)
        except WorkflowQueryFailedError as error:
            trouble = str(error)
        except TimeoutError:
            trouble = f"no answer within {_GATE_S:g} s"
        _log.warning("gate_not_asked", gate=gate.id, trouble=trouble, consequence="audits start for its hosts' events")
        return ()
