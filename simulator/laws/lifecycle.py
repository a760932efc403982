"""vSphere Lifecycle Manager: a cluster's image is an absolute desired state of its hosts' packages.

The image is changed through drafts, from components of depots that vCenter has imported. What a host has beyond the
image is drift: remediation removes it, whoever installed it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime

from pyVmomi import vmodl

from simulator.depots import DEPOTS, Depot, DepotNotFound, package_at
from simulator.laws import hosts, maintenance, packages
from simulator.laws.packages import PackageError
from simulator.world import Cluster, Host, Vib, World

__all__ = ["Draft", "HostOutcome", "Lifecycle", "Refused", "compliant", "drift"]

IMPORT_SECONDS = 20.0
VALIDATE_SECONDS = 5.0
EVACUATION_SECONDS = 900
REBOOT_SECONDS = 3600.0


class Refused(Exception):
    """vAPI's error: its type (`NOT_FOUND`) and the words."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type


@dataclass(slots=True)
class Draft:
    """A working copy of a cluster's image; `components` maps names to versions."""

    id: str
    cluster: Cluster
    owner: str
    created: datetime
    components: dict[str, str]


@dataclass(slots=True)
class HostOutcome:
    """What remediation did to a host: `OK`, `SKIPPED` (it was compliant) or `ERROR` with the words."""

    host: Host
    status: str
    message: str


@dataclass(slots=True)
class ImportedDepot:
    id: str
    location: str
    description: str
    created: datetime
    depot: Depot = field(repr=False)


def drift(host: Host) -> tuple[list[Vib], list[Vib]]:
    """What the host lacks of its cluster's image, and what it has beyond it."""
    image = host.compute.image
    wanted = [vib for vib in _known_vibs() if image.get(vib.component) == vib.version]
    lacking = [vib for vib in wanted if vib not in host.vibs]
    beyond = [vib for vib in host.vibs if vib.component and vib not in wanted]
    return lacking, beyond


def compliant(host: Host) -> bool:
    """The host has exactly the image, and runs it."""
    return drift(host) == ([], []) and frozenset(host.vibs) == host.running_vibs


def _known_vibs() -> list[Vib]:
    return [depot.vib for depot in DEPOTS.values()]


class Lifecycle:
    """The lifecycle manager of one vCenter: imported depots, drafts and commits."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.depots: dict[str, ImportedDepot] = {}
        self.drafts: dict[str, Draft] = {}
        self.commits: dict[str, str] = {}
        """The latest commit of each cluster, by moid."""
        self._next = 1
        self._busy: set[str] = set()

    def _number(self) -> str:
        number, self._next = self._next, self._next + 1
        return str(number)

    def cluster(self, moid: str) -> Cluster:
        """A cluster with an image; raises `Refused` for one that has none."""
        found = self.world.clusters.get(moid)
        if found is None:
            raise Refused("NOT_FOUND", f"Cluster {moid} is not in the inventory.")
        if not found.lifecycle_managed:
            raise Refused("NOT_FOUND", f"Cluster {found.name} is not managed with a single image.")
        return found

    def draft(self, cluster: Cluster, draft_id: str) -> Draft:
        """Raises `Refused` for a draft that is not there, or belongs to another cluster."""
        draft = self.drafts.get(draft_id)
        if draft is None or draft.cluster is not cluster:
            raise Refused("NOT_FOUND", f"Cluster {cluster.name} has no draft {draft_id}.")
        return draft

    async def import_depot(self, location: str, description: str) -> str:
        """Let vCenter download an offline bundle; its components can go into drafts then. Returns the depot's id."""
        await self.world.sleep(IMPORT_SECONDS)
        try:
            depot = package_at(location)
        except DepotNotFound as missing:
            raise Refused("INVALID_ARGUMENT", str(missing)) from missing
        for known in self.depots.values():
            if known.depot is depot:
                raise Refused("ALREADY_EXISTS", f"The content of {location} has been imported as depot {known.id}.")
        depot_id = self._number()
        self.depots[depot_id] = ImportedDepot(depot_id, location, description, self.world.registry.clock.now(), depot)
        return depot_id

    def available(self) -> list[Vib]:
        """The packages of the imported depots; each is a component."""
        return [imported.depot.vib for imported in self.depots.values()]

    def create_draft(self, cluster: Cluster, owner: str) -> Draft:
        """A copy of the image; a user has one draft at a time, else raises `Refused`."""
        for draft in self.drafts.values():
            if draft.cluster is cluster and draft.owner == owner:
                raise Refused("ALREADY_EXISTS", f"User {owner} has draft {draft.id} of cluster {cluster.name}.")
        draft = Draft(self._number(), cluster, owner, self.world.registry.clock.now(), dict(cluster.image))
        self.drafts[draft.id] = draft
        return draft

    def set_component(self, draft: Draft, name: str, version: str) -> None:
        """Put a component into a draft; raises `Refused` for one that no imported depot has."""
        if not any((vib.component, vib.version) == (name, version) for vib in self.available()):
            raise Refused("NOT_FOUND", f"Component {name} {version} is in none of the depots.")
        draft.components[name] = version

    def delete_component(self, draft: Draft, name: str) -> None:
        """Take a component out of a draft; raises `Refused` when it is not in."""
        if draft.components.pop(name, None) is None:
            raise Refused("NOT_FOUND", f"Draft {draft.id} has no component {name}.")

    async def validate(self, draft: Draft) -> list[str]:
        """What is wrong with a draft, in words; nothing when it can be committed."""
        await self.world.sleep(VALIDATE_SECONDS)
        return self._errors(draft)

    def _errors(self, draft: Draft) -> list[str]:
        found = [vib for vib in self.available() if draft.components.get(vib.component) == vib.version]
        named = {vib.component for vib in found}
        errors = [
            f"Component {name} {version} is not in a depot any more."
            for name, version in draft.components.items()
            if name not in named
        ]
        for host in list(draft.cluster.hosts.values())[:1]:
            errors += [
                f"Component {vib.component} is for ESXi {vib.platform}, not for the base image {host.version}."
                for vib in found
                if vib.platform.partition(".")[0] != host.version.partition(".")[0]
            ]
        managers = [vib.component for vib in found if vib.provides_vgpu]
        if len(managers) > 1:
            errors.append(f"Components {' and '.join(managers)} conflict with each other.")
        return errors

    async def commit(self, draft: Draft, message: str) -> str:
        """Make a draft the cluster's image; the draft is gone then. Raises `Refused` for one that is not valid."""
        if errors := await self.validate(draft):
            raise Refused("NOT_ALLOWED_IN_CURRENT_STATE", " ".join(errors))
        if self.drafts.pop(draft.id, None) is None:
            raise Refused("NOT_FOUND", f"Draft {draft.id} is gone.")
        draft.cluster.image = dict(draft.components)
        commit = self.commits[draft.cluster.moid] = self._number()
        self.world.changed(draft.cluster)
        return commit

    async def apply(self, cluster: Cluster, chosen: list[str] | None) -> list[HostOutcome]:
        """Remediate hosts one after another, stopping at the first that fails. One at a time in a cluster."""
        if cluster.moid in self._busy:
            raise Refused("NOT_ALLOWED_IN_CURRENT_STATE", f"Cluster {cluster.name} is being remediated already.")
        unknown = sorted(set(chosen or ()) - cluster.hosts.keys())
        if unknown:
            raise Refused("INVALID_ARGUMENT", f"Cluster {cluster.name} has no host {unknown[0]}.")
        self._busy.add(cluster.moid)
        outcomes: list[HostOutcome] = []
        try:
            for host in [host for host in cluster.hosts.values() if not chosen or host.moid in chosen]:
                outcomes.append(await self._remediate(host))
                if outcomes[-1].status == "ERROR":
                    break
        finally:
            self._busy.discard(cluster.moid)
        return outcomes

    async def _remediate(self, host: Host) -> HostOutcome:
        if compliant(host):
            return HostOutcome(host, "SKIPPED", f"{host.name} is compliant already.")
        entered = not host.in_maintenance
        host.ledger.append("remediate")
        try:
            if entered:
                await maintenance.enter(self.world, host, EVACUATION_SECONDS)
            lacking, beyond = drift(host)
            if beyond:
                await packages.remove(self.world, host, [f"{vib.name}:{vib.version}" for vib in beyond])
            if lacking:
                await packages.install(self.world, host, lacking)
            await self._reboot(host)
            if entered:
                await maintenance.leave(self.world, host)
        except (vmodl.MethodFault, PackageError, TimeoutError) as failed:
            words = failed.msg if isinstance(failed, vmodl.MethodFault) else str(failed)
            return HostOutcome(host, "ERROR", f"Remediation of {host.name} failed: {words}")
        return HostOutcome(host, "OK", f"{host.name} was remediated.")

    async def _reboot(self, host: Host) -> None:
        """Reboot and wait for the host; raises `TimeoutError` when it does not come back."""
        before = host.boot_time
        await hosts.reboot(self.world, host, force=False)
        news = self.world.registry
        async with asyncio.timeout(REBOOT_SECONDS / news.clock.scale):
            while host.boot_time == before or not host.up:
                await news.news().wait()
