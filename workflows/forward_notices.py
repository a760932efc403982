"""What a forward tells people: pure functions from what happened to the notice."""

from datetime import datetime
from functools import partial

from contracts.durations import duration_words
from contracts.notices import Notice, Severity
from contracts.watch import Gap, Outage
from workflows.watch_notices import RETENTION, clearing, time_of
from workflows.watch_outage import OutageNotices

__all__ = ["of_gap", "of_outages"]

_STUCK = "webhook_stuck"


def of_gap(vcenter: str, webhook: str, gap: Gap, at: datetime, workflow_id: str) -> Notice:
    """Events that a webhook never gets. The same gap has the same ID, whoever finds it."""
    return Notice(
        id=f"webhook-{webhook}-missing-{gap.epoch}-{gap.after_key}-{gap.before_key}",
        kind="webhook_events_missing",
        severity=Severity.WARNING,
        vcenter=vcenter,
        subject=_subject(vcenter, webhook),
        happened=(
            f"Webhook {webhook} never gets the events of {vcenter} after event {gap.after_key} of "
            f"{time_of(gap.since)}: {gap.reason}."
        ),
        means="Whoever is behind the webhook does not know what happened in between. It goes on with the events since.",
        advice=(
            f"Have them look at {vcenter} itself. {RETENTION}, or than the webhook may be in trouble."
            if gap.before_key > 0
            else f"Have them look at {vcenter} itself, and find out who restored or replaced it."
        ),
        at=at,
        workflow_id=workflow_id,
    )


def of_outages(vcenter: str, webhook: str) -> OutageNotices:
    """What people are told when the events of a vCenter do not get to a webhook."""
    return OutageNotices(
        partial(_of_outage, vcenter, webhook),
        partial(_of_recovery, vcenter, webhook),
        partial(_of_stop, vcenter, webhook),
    )


def _of_outage(vcenter: str, webhook: str, outage: Outage, at: datetime, workflow_id: str) -> Notice:
    goes_on = f"from event {outage.cursor.key} on" if outage.cursor else "from the newest one then"
    return Notice(
        id=f"webhook-{webhook}-stuck-{outage.since:%Y%m%dT%H%M%SZ}",
        kind=_STUCK,
        # Rules and what they start do not wait for a webhook.
        severity=Severity.WARNING,
        vcenter=vcenter,
        subject=_subject(vcenter, webhook),
        happened=(
            f"Events of {vcenter} do not get to webhook {webhook} since {time_of(outage.since)} "
            f"({duration_words(at - outage.since)}): {outage.trouble}"
        ),
        means=f"The webhook gets them later, {goes_on}, as far back as vCenter keeps them. Nothing else waits for it.",
        advice=(
            f"`gpuwright watch status --vcenter {vcenter} --live` tells how far it is behind. Sending is tried again "
            f"all the time; what a person had to mend is tried at once by `gpuwright runs recheck {workflow_id}`."
        ),
        at=at,
        lasts=True,
        workflow_id=workflow_id,
    )


def _of_recovery(vcenter: str, webhook: str, outage: Outage, at: datetime, workflow_id: str) -> Notice:
    over_since = outage.over_since or at
    return Notice(
        id=clearing(outage),
        kind=_STUCK,
        severity=Severity.INFO,
        vcenter=vcenter,
        subject=_subject(vcenter, webhook),
        happened=(
            f"Events of {vcenter} get to webhook {webhook} again since {time_of(over_since)}, after "
            f"{duration_words(over_since - outage.since)} in which they did not."
        ),
        means=(
            f"Events are missing there: each gap ({outage.gaps} in all) is told by a notice of its own."
            if outage.gaps
            else "It gets what it waited for; none was missed."
        ),
        advice="See the notices of the gaps." if outage.gaps else "Nothing has to be done.",
        at=at,
        clears=outage.notice_id,
        workflow_id=workflow_id,
    )


def _of_stop(vcenter: str, webhook: str, outage: Outage, at: datetime, workflow_id: str) -> Notice:
    return Notice(
        id=clearing(outage),
        kind=_STUCK,
        severity=Severity.INFO,
        vcenter=vcenter,
        subject=_subject(vcenter, webhook),
        happened=f"Events of {vcenter} are not sent to webhook {webhook} any more: that was stopped.",
        means="Whoever starts it again begins at the newest event then.",
        advice="Nothing has to be done.",
        at=at,
        clears=outage.notice_id,
        workflow_id=workflow_id,
    )


def _subject(vcenter: str, webhook: str) -> str:
    return f"{vcenter} to webhook {webhook}"
