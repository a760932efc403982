"""What a watch tells people: pure functions from what happened to the notice."""

from datetime import datetime
from functools import partial

from contracts.durations import duration_words
from contracts.notices import Notice, Severity
from contracts.watch import Gap, Outage
from workflows.watch_outage import OutageNotices

__all__ = ["RETENTION", "clearing", "of_gap", "of_outages", "time_of"]

_UNREACHABLE = "vcenter_unreachable"
RETENTION = (
    "Have vCenter keep events for longer than this service may be down (vCenter Server settings, Database, Event "
    "retention; `event.maxAge` in days)"
)


def of_gap(vcenter: str, gap: Gap, at: datetime, workflow_id: str) -> Notice:
    """Events that nobody can read any more. The same gap has the same ID, whoever finds it."""
    purged = gap.before_key > 0
    return Notice(
        id=f"events-missing-{gap.epoch}-{gap.after_key}-{gap.before_key}",
        kind="events_missing",
        # Another life of a vCenter may show an inventory that is older than the hosts.
        severity=Severity.WARNING if purged else Severity.CRITICAL,
        vcenter=vcenter,
        subject=vcenter,
        happened=(
            f"Events of {vcenter} are missing after event {gap.after_key} of {time_of(gap.since)}: {gap.reason}."
        ),
        means=(
            "What happened in between is not known, and no rule was given it. The whole fleet is looked at instead "
            f"(ReconcileFleet): `gpuwright watch status --vcenter {vcenter}` tells whether it was."
        ),
        advice=(
            f"{RETENTION}, and run this service twice; then see `gpuwright fleet drift`."
            if purged
            else "Find out who restored or replaced this vCenter; then see `gpuwright fleet drift`."
        ),
        at=at,
        workflow_id=workflow_id,
    )


def of_outages(vcenter: str) -> OutageNotices:
    """What people are told when the events of a vCenter cannot be read."""
    return OutageNotices(partial(_of_outage, vcenter), partial(_of_recovery, vcenter), partial(_of_stop, vcenter))


def _of_outage(vcenter: str, outage: Outage, at: datetime, workflow_id: str) -> Notice:
    """Events have not been read for too long."""
    cursor = outage.cursor
    goes_on = f"from event {cursor.key} on" if cursor else "from the newest one then"
    return Notice(
        id=f"unreachable-{outage.since:%Y%m%dT%H%M%SZ}",
        kind=_UNREACHABLE,
        severity=Severity.CRITICAL,
        vcenter=vcenter,
        subject=vcenter,
        happened=(
            f"Events of {vcenter} cannot be read since {time_of(outage.since)} ({duration_words(at - outage.since)}): "
            f"{outage.trouble}"
        ),
        means=(
            "Until they are read no rule acts: new hosts are not prepared and failures are not audited. They will be "
            f"read {goes_on}, as far back as vCenter keeps them."
        ),
        advice=(
            f"`gpuwright watch status --vcenter {vcenter} --live` tells how it stands. Reading is tried again all the "
            f"time; what a person had to mend is tried at once by `gpuwright runs recheck {workflow_id}`."
        ),
        at=at,
        lasts=True,
        workflow_id=workflow_id,
    )


def _of_recovery(vcenter: str, outage: Outage, at: datetime, workflow_id: str) -> Notice:
    """Events have been read again for a while; `outage` was told."""
    over_since, cursor = outage.over_since or at, outage.cursor
    if outage.gaps:
        means = f"Events are missing: each gap ({outage.gaps} in all) is told by a notice of its own."
    elif cursor:
        means = f"Reading went on behind event {cursor.key} of {time_of(cursor.created)}; no event was missed."
    else:
        means = "Reading begins at the newest event."
    return Notice(
        id=clearing(outage),
        kind=_UNREACHABLE,
        severity=Severity.INFO,
        vcenter=vcenter,
        subject=vcenter,
        happened=(
            f"Events of {vcenter} are read again since {time_of(over_since)}, after "
            f"{duration_words(over_since - outage.since)} in which they could not be."
        ),
        means=means,
        advice="See the notices of the gaps." if outage.gaps else "Nothing has to be done.",
        at=at,
        clears=outage.notice_id,
        workflow_id=workflow_id,
    )


def _of_stop(vcenter: str, outage: Outage, at: datetime, workflow_id: str) -> Notice:
    """Nobody tries to read the events any more; `outage` was told."""
    return Notice(
        id=clearing(outage),
        kind=_UNREACHABLE,
        severity=Severity.INFO,
        vcenter=vcenter,
        subject=vcenter,
        happened=f"Events of {vcenter} are not read any more: its watch was stopped.",
        means="Whoever starts it again begins at the newest event then.",
        advice="Nothing has to be done.",
        at=at,
        clears=outage.notice_id,
        workflow_id=workflow_id,
    )


def clearing(outage: Outage) -> str:
    """The ID of the notice that an outage is over."""
    return f"{outage.notice_id}-over"


def time_of(at: datetime) -> str:
    """To the second."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
