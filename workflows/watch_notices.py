"""What a watch tells people: pure functions from what happened to the notice."""

from datetime import datetime

from contracts.notices import Notice, Severity
from contracts.watch import Gap

__all__ = ["of_gap"]

_RETENTION = (
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
            f"Events of {vcenter} are missing after event {gap.after_key} of {gap.since:%Y-%m-%d %H:%M:%S} UTC: "
            f"{gap.reason}."
        ),
        means=(
            "What happened in between is not known, and no rule was given it. The whole fleet is looked at instead "
            f"(ReconcileFleet): `gpuwright watch status --vcenter {vcenter}` tells whether it was."
        ),
        advice=(
            f"{_RETENTION}, and run this service twice; then see `gpuwright fleet drift`."
            if purged
            else "Find out who restored or replaced this vCenter; then see `gpuwright fleet drift`."
        ),
        at=at,
        workflow_id=workflow_id,
    )
