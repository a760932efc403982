"""The activity that reads events for a run, as Temporal knows it, whoever answers queries."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client

from cli.asking import PATIENCE
from contracts.events import Cursor
from contracts.watch import FollowPosition

__all__ = ["Reader", "document", "furthest", "reader_of"]


@dataclass(frozen=True)
class Reader:
    """A call of `follow_events` or `forward_events`."""

    position: FollowPosition | None
    """Of its last heartbeat: newer than what the run was told."""
    heard_at: datetime | None
    running: bool
    attempt: int
    worker: str
    trouble: str
    """Why its last attempt failed."""


async def reader_of(client: Client, workflow_id: str, activity_type: str) -> Reader | None:
    """The reader of a run; None between two of its rounds."""
    described = await client.get_workflow_handle(workflow_id).describe(rpc_timeout=PATIENCE)
    pending = next(
        (a for a in described.raw_description.pending_activities if a.activity_type.name == activity_type), None
    )
    if pending is None:
        return None
    payloads = pending.heartbeat_details.payloads
    details: list[Any] = await client.data_converter.decode(payloads, [FollowPosition]) if payloads else []
    beat = pending.HasField("last_heartbeat_time")
    return Reader(
        position=details[0] if details else None,
        heard_at=pending.last_heartbeat_time.ToDatetime(tzinfo=UTC) if beat else None,
        running=pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED,
        attempt=pending.attempt,
        worker=pending.last_worker_identity,
        trouble=pending.last_failure.message,
    )


def furthest(told: Cursor | None, reader: Reader | None) -> Cursor | None:
    """The newest cursor that is known: what the run was told, or the heartbeat of its reader."""
    beat = reader.position.cursor if reader and reader.position else None
    if told is None or (beat is not None and beat.epoch == told.epoch and beat.key > told.key):
        return beat or told
    return told


def document(reader: Reader | None) -> dict[str, Any] | None:
    """The reader as JSON."""
    if reader is None:
        return None
    return {
        "running": reader.running,
        "worker": reader.worker,
        "attempt": reader.attempt,
        "heard_at": reader.heard_at.isoformat() if reader.heard_at else None,
    }
