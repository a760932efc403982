"""What accounting for the GPU VMs of a failed host needs done: who was there, what became of them, what can be done."""

import hashlib
from collections import Counter
from collections.abc import Mapping

from temporalio import activity
from temporalio.service import RPCError

from activities.heartbeats import beating, in_thread
from activities.incident_reading import Scene, named, read_scene
from activities.own_work import by_own_work
from activities.reconcile import preparations
from activities.snapshots import recall
from contracts.activities import AuditActivities
from contracts.approvals import ApprovalTerms
from contracts.audit import (
    AuditLimits,
    IdentifyVictims,
    IncidentLook,
    LookAtIncident,
    RecalledProfile,
    RecalledProfiles,
    RecallProfiles,
    RemedyPolicy,
    VictimsFound,
)
from contracts.errors import Unreachable
from contracts.fleet import GpuFleet
from contracts.packing import packed, unpacked
from contracts.plan import Plan, plan_hash
from contracts.snapshots import ClusterSnapshot
from contracts.verdicts import (
    Findings,
    HostStanding,
    Victim,
    Victims,
)
from planning import capacity, incident, presence, remedies, snapshots, verdicts
from vsphere.sessions import SessionPool, pool_named

__all__ = ["VCenterAuditActivities"]

_TRIES = 3
"""After so many attempts an audit goes on without the snapshot, and says so."""


class VCenterAuditActivities(AuditActivities):
    """`AuditActivities` through vCenter and the worker's own Temporal client."""

    def __init__(
        self, pools: Mapping[str, SessionPool], *, terms: ApprovalTerms, limits: AuditLimits, policy: RemedyPolicy
    ) -> None:
        self._pools = pools
        self._terms = terms
        self._limits = limits
        self._policy = policy

    @activity.defn(name="identify_victims")
    async def identify_victims(self, order: IdentifyVictims) -> VictimsFound:
        """See `AuditActivities`."""
        pool, client = self._pool(order.vcenter), activity.client()
        notes: list[str] = []
        kept, first = await self._recalled(order, notes), min(down.at for down in order.hosts)
        snapshot = await in_thread(lambda: snapshots.before(kept, first, {down.host.key for down in order.hosts}))
        taken_at = snapshot.taken_at if snapshot else None

        def read() -> Scene:
            with pool.session() as si:
                return read_scene(si, order.vcenter, order.cluster_moid, order.hosts, since=taken_at)

        scene = await in_thread(read)
        hosts = named(order.hosts, scene.fleet)
        own = await by_own_work(client, order.vcenter, order.cluster_moid, hosts)
        lost, planned = presence.lost_hosts(
            [down for down in hosts if down.host.key not in own.planned], scene.events, scene.fleet
        )
        if snapshot is None:
            notes.append("there is no snapshot from before: who was there is known from events and vCenter's last view")
        fleet = unpacked(GpuFleet, snapshot.fleet) if snapshot else None
        victims = presence.victims_of(lost, fleet, taken_at, scene.events, scene.fleet)
        told = [note for note in (*notes, scene.note, *own.notes) if note]
        return VictimsFound(
            victims=packed(Victims(vms=victims)),
            count=len(victims),
            hosts=lost,
            planned=(*own.planned.values(), *planned),
            snapshot_at=taken_at,
            notes=tuple(told),
        )

    async def _recalled(self, order: IdentifyVictims, notes: list[str]) -> tuple[ClusterSnapshot, ...]:
        try:
            return await recall(activity.client(), order.vcenter, order.subject)
        except Unreachable as error:
            if activity.info().attempt < _TRIES:
                raise
            notes.append(str(error))
            return ()

    @activity.defn(name="look_at_incident")
    def look_at_incident(self, order: LookAtIncident) -> IncidentLook:
        """See `AuditActivities`."""
        pool = self._pool(order.vcenter)
        victims = unpacked(Victims, order.victims).vms if order.victims else ()
        with beating("look at the incident"), pool.session() as si:
            scene = read_scene(
                si,
                order.vcenter,
                order.cluster_moid,
                order.hosts,
                victims=[victim.vm for victim in victims],
            )
        return self._judged(order, victims, scene)

    def _judged(self, order: LookAtIncident, victims: tuple[Victim, ...], scene: Scene) -> IncidentLook:
        fleet, events = scene.fleet, scene.events
        hosts = incident.standings(order.hosts, events, fleet)
        standing = {each.host.key: each for each in hosts}
        sight = verdicts.Sight(fleet, events, standing, scene.at, self._limits, order.unregistered)
        judged = verdicts.judge(victims, sight)
        gone = {each.host.key for each in hosts if each.standing is not HostStanding.BACK}
        after = capacity.forecasts(fleet, order.cluster_moid, down=gone) if order.cluster_moid else ()
        plan = remedies.remedies(judged, victims, fleet, self._policy)
        subject = f"{order.vcenter}/{order.subject}"
        bound = plan_hash(subject, plan)
        timeline = incident.timeline(order.hosts, victims, judged, events)
        findings = packed(Findings(verdicts=judged, timeline=timeline, capacity=after))
        digest = hashlib.sha256(f"{findings} {bound}".encode()).hexdigest()[:32]
        same = digest == order.known
        return IncidentLook(
            at=scene.at,
            findings="" if same else findings,
            counts=dict(Counter(str(verdict.recovery) for verdict in judged)),
            hosts=hosts,
            also_down=incident.also_down(order.hosts, events, fleet, scene.at),
            last_event_at=incident.last_event_at(order.hosts, victims, events),
            capacity_summary=capacity.summary(after) if after else "",
            plan=Plan() if same else plan,
            plan_hash=bound,
            plan_subject=subject,
            digest=digest,
            same=same,
            terms=self._terms,
            limits=self._limits,
            offers=self._policy.offer_preparation,
        )

    @activity.defn(name="recall_profiles")
    async def recall_profiles(self, order: RecallProfiles) -> RecalledProfiles:
        """See `AuditActivities`."""
        try:
            found = [each async for each in preparations(activity.client(), order.vcenter, hosts=order.hosts)]
        except RPCError as error:
            raise Unreachable(f"Temporal does not list the preparations: {error.message}") from error
        return RecalledProfiles(hosts=tuple(RecalledProfile(host=each.host, profile=each.profile) for each in found))

    def _pool(self, vcenter: str) -> SessionPool:
        return pool_named(self._pools, vcenter)
