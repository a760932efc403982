"""Offering hosts that came back to `PrepareGpuHost`: firmware and settings may not be what they were."""

from collections.abc import Sequence
from datetime import datetime

from temporalio import workflow
from temporalio.exceptions import ActivityError, WorkflowAlreadyStartedError, is_cancelled_exception

with workflow.unsafe.imports_passed_through():
    from contracts import ids, names, search_attributes
    from contracts.activities import AuditActivities
    from contracts.audit import (
        HaRecoveryAuditInput,
        HostOffer,
        RecalledProfile,
        RecallProfiles,
    )
    from contracts.host import HostRef
    from contracts.prepare import PrepareGpuHostInput, PrepareGpuHostReport
    from contracts.verdicts import HostStanding, IncidentHost

from workflows import policies
from workflows.asking import cause
from workflows.audit_incident import AWAY

__all__ = ["REQUESTER", "Offers"]

REQUESTER = "ha-recovery-audit"
"""Who asks for the preparations of hosts that came back."""
_RECALL_S = 120


class Offers:
    """The offers of an audit: one for each return of a host that gpuwright prepared before."""

    def __init__(self, order: HaRecoveryAuditInput) -> None:
        self._order = order
        self._seen: set[tuple[str, datetime | None]] = set()
        self._prepared: dict[str, bool] = {}
        """Hosts that were asked about: gpuwright prepared them, or not."""
        self.made: list[HostOffer] = []
        self.notes: list[str] = []

    def waits_for(self, hosts: Sequence[IncidentHost]) -> bool:
        """One of these is away, and to be offered when it is back."""
        return any(each.standing in AWAY and self._prepared.get(each.host.key, False) for each in hosts)

    async def make(self, hosts: Sequence[IncidentHost]) -> list[str]:
        """Offer the hosts that came back since the last call; what was offered, in words."""
        back = [
            each
            for each in hosts
            if each.standing is HostStanding.BACK and (each.host.key, each.back_at) not in self._seen
        ]
        away = [each for each in hosts if each.standing in AWAY and each.host.key not in self._prepared]
        if not back and not away:
            return []
        try:
            profiles = await self._recall([each.host for each in (*back, *away)])
        except ActivityError as error:
            if is_cancelled_exception(error):
                raise
            # Tried again at the next look.
            if back:
                self.notes.append(f"hosts that are back were not offered yet: {': '.join(cause(error))}")
            return []
        self._prepared |= {each.host.key: each.host.key in profiles for each in (*back, *away)}
        self._seen |= {(each.host.key, each.back_at) for each in back}
        told = []
        for each in back:
            if (recall := profiles.get(each.host.key)) is None:
                told.append(f"{each.host.name} is back; gpuwright did not prepare it, so it is not offered")
                continue
            self.made.append(await self._propose(each, recall))
            told.append(f"{each.host.name} is back and was offered to {names.PREPARE_GPU_HOST} for {recall.profile}")
        return told

    async def _recall(self, hosts: Sequence[HostRef]) -> dict[str, RecalledProfile]:
        recalled = await workflow.execute_activity_method(
            AuditActivities.recall_profiles,
            RecallProfiles(vcenter=self._order.vcenter, hosts=tuple(hosts)),
            **policies.watchful(_RECALL_S),
            task_queue=policies.wait_queue(),
            summary=f"what {len(hosts)} hosts were prepared for",
        )
        return {each.host.key: each for each in recalled.hosts}

    async def _propose(self, back: IncidentHost, recall: RecalledProfile) -> HostOffer:
        """Start a preparation, which asks a person about all that it would do."""
        host, cluster = back.host, self._order.name if self._order.cluster_moid else recall.cluster_name
        try:
            child = await workflow.start_child_workflow(
                names.PREPARE_GPU_HOST,
                PrepareGpuHostInput(
                    host=host,
                    profile=recall.profile,
                    requester=REQUESTER,
                    reason=f"back after it was lost at {back.lost_at:%Y-%m-%d %H:%M:%S} UTC",
                    ask_always=True,
                ),
                id=ids.prepare_gpu_host(host.vcenter, host.key),
                result_type=PrepareGpuHostReport,
                # It waits for a person, and works, long after this run.
                parent_close_policy=workflow.ParentClosePolicy.ABANDON,
                static_summary=f"prepare {host.name} for {recall.profile}: it is back after a failure",
                search_attributes=search_attributes.of_host(host, cluster),
            )
        except WorkflowAlreadyStartedError:
            return HostOffer(host=host, profile=recall.profile)
        return HostOffer(host=host, profile=recall.profile, run_id=child.first_execution_run_id or "")
