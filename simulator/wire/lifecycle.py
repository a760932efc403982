"""vSphere Lifecycle Manager's REST API below `/api/esx/settings`: depots, drafts, images, remediation.

Paths and shapes are those of the vSphere Automation API 8.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web

from simulator.laws.lifecycle import Draft, HostOutcome, Lifecycle, Refused, compliant, drift
from simulator.wire.rest import SESSION, RestApi, localized, stamp
from simulator.world import Cluster, Host, Vib, World

if TYPE_CHECKING:
    from simulator.service import Simulator

__all__ = ["LifecycleApi"]

_BASE = "/api/esx/settings"
_CLUSTER = _BASE + "/clusters/{cluster}"
_DRAFTS = _CLUSTER + "/software/drafts"
_DRAFT = _DRAFTS + "/{draft}"
_COMPONENTS = _DRAFT + "/software/components"
_SERVICE = "com.vmware.esx.settings.clusters.software"


class LifecycleApi(RestApi):
    """The REST API of vCenter with its lifecycle manager."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(simulator)
        if not isinstance(simulator.world, World):
            raise TypeError("the lifecycle manager needs hosts")
        self.lifecycle = Lifecycle(simulator.world)
        self.compliance: dict[str, dict[str, Any]] = {}

    def add_routes(self, app: web.Application) -> None:
        """Put the API's paths into an application."""
        super().add_routes(app)
        router, answer = app.router, self.answer
        self.get(app, f"{_BASE}/depots/offline", self.list_depots)
        router.add_post(f"{_BASE}/depots/offline", answer(self.create_depot))
        self.get(app, f"{_BASE}/depots/offline/{{depot}}", self.get_depot)
        router.add_delete(f"{_BASE}/depots/offline/{{depot}}", answer(self.delete_depot))
        self.get(app, f"{_BASE}/depots/offline/{{depot}}/content", self.depot_content)
        self.get(app, f"{_BASE}/depot-content/components", self.components)
        self.get(app, f"{_CLUSTER}/enablement/software", self.enablement)
        self.get(app, f"{_CLUSTER}/software", self.image)
        router.add_post(f"{_CLUSTER}/software", answer(self.act_on_image))
        self.get(app, f"{_CLUSTER}/software/components", self.image_components)
        self.get(app, f"{_CLUSTER}/software/compliance", self.last_compliance)
        self.get(app, _DRAFTS, self.list_drafts)
        router.add_post(_DRAFTS, answer(self.create_draft))
        self.get(app, _DRAFT, self.get_draft)
        router.add_delete(_DRAFT, answer(self.delete_draft))
        router.add_post(_DRAFT, answer(self.act_on_draft))
        self.get(app, _COMPONENTS, self.draft_components)
        router.add_patch(_COMPONENTS, answer(self.update_components))
        self.get(app, _COMPONENTS + "/{component}", self.draft_component)
        router.add_put(_COMPONENTS + "/{component}", answer(self.set_component))
        router.add_delete(_COMPONENTS + "/{component}", answer(self.delete_component))

    def _cluster(self, request: web.Request) -> Cluster:
        return self.lifecycle.cluster(request.match_info["cluster"])

    def _draft(self, request: web.Request) -> Draft:
        return self.lifecycle.draft(self._cluster(request), request.match_info["draft"])

    # depots

    def list_depots(self, request: web.Request) -> Any:
        return {
            found.id: {
                "create_time": stamp(found.created),
                "description": found.description,
                "source_type": "PULL",
                "location": found.location,
            }
            for found in self.lifecycle.depots.values()
        }

    async def create_depot(self, request: web.Request) -> Any:
        spec = await _body(request)
        if spec.get("source_type") != "PULL" or not isinstance(spec.get("location"), str):
            raise Refused("INVALID_ARGUMENT", "source_type must be PULL, with the depot's URL as location.")
        work = self.lifecycle.import_depot(spec["location"], str(spec.get("description", "")))
        return self._start(request, "com.vmware.esx.settings.depots.offline", "create", work)

    def _depot(self, request: web.Request) -> Any:
        found = self.lifecycle.depots.get(request.match_info["depot"])
        if found is None:
            raise Refused("NOT_FOUND", f"There is no depot {request.match_info['depot']}.")
        return found

    def get_depot(self, request: web.Request) -> Any:
        found = self._depot(request)
        return {"description": found.description, "source_type": "PULL", "location": found.location}

    def delete_depot(self, request: web.Request) -> Any:
        found = self._depot(request)

        async def deleted() -> None:
            self.lifecycle.depots.pop(found.id, None)

        return self._start(request, "com.vmware.esx.settings.depots.offline", "delete", deleted())

    def depot_content(self, request: web.Request) -> Any:
        vib = self._depot(request).depot.vib
        summary = {"display_name": vib.summary, "versions": [_version(vib)]}
        return {
            "metadata_bundles": {
                vib.component: [{"file_name": "metadata.zip", "independent_components": {vib.component: summary}}]
            }
        }

    def components(self, request: web.Request) -> Any:
        names = request.query.getall("names", [])
        return [
            _version(vib) | {"name": vib.component, "display_name": vib.summary, "vendor": vib.vendor}
            for vib in self.lifecycle.available()
            if not names or vib.component in names
        ]

    # images

    def enablement(self, request: web.Request) -> Any:
        cluster = self.lifecycle.world.clusters.get(request.match_info["cluster"])
        if cluster is None:
            raise Refused("NOT_FOUND", f"Cluster {request.match_info['cluster']} is not in the inventory.")
        return {"enabled": cluster.lifecycle_managed}

    def image(self, request: web.Request) -> Any:
        cluster = self._cluster(request)
        return self._software(cluster, cluster.image)

    def _software(self, cluster: Cluster, components: dict[str, str]) -> dict[str, Any]:
        host = next(iter(cluster.hosts.values()), None)
        version = f"{host.version}-0.0.{host.build}" if host is not None else ""
        base = {"display_name": "ESXi", "display_version": version, "release_date": "2023-09-04T00:00:00.000Z"}
        return {
            "base_image": {"version": version, "details": base},
            "components": self._shown(components),
            "solutions": {},
        }

    def _shown(self, components: dict[str, str]) -> dict[str, Any]:
        known = {vib.component: vib for vib in self.lifecycle.available()}
        return {
            name: {
                "version": version,
                "details": {
                    "display_name": known[name].summary if name in known else name,
                    "vendor": known[name].vendor if name in known else "",
                },
            }
            for name, version in components.items()
        }

    def image_components(self, request: web.Request) -> Any:
        return self._shown(self._cluster(request).image)

    async def act_on_image(self, request: web.Request) -> Any:
        cluster = self._cluster(request)
        action = request.query.get("action")
        if action == "scan":
            return self._start(request, _SERVICE, "scan", self._scan(cluster))
        if action == "apply":
            spec = await _body(request)
            if not spec.get("accept_eula"):
                raise Refused("INVALID_ARGUMENT", "The EULA must be accepted: set accept_eula.")
            hosts = spec.get("hosts")
            return self._start(request, _SERVICE, "apply", self._apply(cluster, hosts))
        raise Refused("INVALID_ARGUMENT", f"There is no action {action!r}: use scan or apply.")

    async def _scan(self, cluster: Cluster) -> dict[str, Any]:
        await self.lifecycle.world.sleep(5)
        found = self.compliance[cluster.moid] = self._compliance(cluster)
        return found

    def last_compliance(self, request: web.Request) -> Any:
        cluster = self._cluster(request)
        if cluster.moid not in self.compliance:
            raise Refused("NOT_FOUND", f"Cluster {cluster.name} has not been scanned.")
        return self.compliance[cluster.moid]

    def _compliance(self, cluster: Cluster) -> dict[str, Any]:
        hosts = {moid: self._host_compliance(host) for moid, host in cluster.hosts.items()}
        status = {moid: found["status"] for moid, found in hosts.items()}
        bad = "NON_COMPLIANT" in status.values()
        now = stamp(self.lifecycle.world.registry.clock.now())
        return {
            "status": "NON_COMPLIANT" if bad else "UNAVAILABLE" if "UNAVAILABLE" in status.values() else "COMPLIANT",
            "impact": "REBOOT_REQUIRED" if bad else "NO_IMPACT",
            "commit": self.lifecycle.commits.get(cluster.moid, ""),
            "compliant_hosts": [moid for moid, found in status.items() if found == "COMPLIANT"],
            "non_compliant_hosts": [moid for moid, found in status.items() if found == "NON_COMPLIANT"],
            "incompatible_hosts": [],
            "unavailable_hosts": [moid for moid, found in status.items() if found == "UNAVAILABLE"],
            "host_info": {moid: {"name": host.name} for moid, host in cluster.hosts.items()},
            "hosts": hosts,
            "notifications": {},
            "scan_time": now,
        }

    def _host_compliance(self, host: Host) -> dict[str, Any]:
        lacking, beyond = drift(host)
        status = "UNAVAILABLE" if not host.up else "COMPLIANT" if compliant(host) else "NON_COMPLIANT"
        differing = {vib.component: "NON_COMPLIANT" for vib in (*lacking, *beyond)}
        return {
            "status": status,
            "impact": "REBOOT_REQUIRED" if status == "NON_COMPLIANT" else "NO_IMPACT",
            "components": {
                name: {
                    "status": found,
                    "current": next(({"version": vib.version} for vib in host.vibs if vib.component == name), None),
                    "target": {"version": host.compute.image[name]} if name in host.compute.image else None,
                }
                for name, found in differing.items()
            },
            "notifications": {},
        }

    async def _apply(self, cluster: Cluster, hosts: list[str] | None) -> dict[str, Any]:
        outcomes = await self.lifecycle.apply(cluster, hosts)
        now = stamp(self.lifecycle.world.registry.clock.now())

        def of(status: str) -> list[str]:
            return [outcome.host.moid for outcome in outcomes if outcome.status == status]

        return {
            "status": {"status": "ERROR" if of("ERROR") else "OK", "end_time": now, "notifications": {}},
            "commit": self.lifecycle.commits.get(cluster.moid, ""),
            "host_info": {moid: {"name": host.name} for moid, host in cluster.hosts.items()},
            "host_status": {outcome.host.moid: _host_status(outcome, now) for outcome in outcomes},
            "successful_hosts": of("OK"),
            "failed_hosts": of("ERROR"),
            "skipped_hosts": of("SKIPPED"),
        }

    # drafts

    def list_drafts(self, request: web.Request) -> Any:
        cluster = self._cluster(request)
        owners = request.query.getall("owners", [])
        return {
            draft.id: _metadata(draft)
            for draft in self.lifecycle.drafts.values()
            if draft.cluster is cluster and (not owners or draft.owner in owners)
        }

    def create_draft(self, request: web.Request) -> web.Response:
        draft = self.lifecycle.create_draft(self._cluster(request), request[SESSION].user)
        return web.json_response(draft.id, status=201)

    def get_draft(self, request: web.Request) -> Any:
        draft = self._draft(request)
        return {"metadata": _metadata(draft), "software": self._software(draft.cluster, draft.components)}

    def delete_draft(self, request: web.Request) -> None:
        del self.lifecycle.drafts[self._draft(request).id]

    async def act_on_draft(self, request: web.Request) -> Any:
        draft = self._draft(request)
        action = request.query.get("action")
        service = f"{_SERVICE}.drafts"
        if action == "validate":
            return self._start(request, service, "validate", self._validate(draft))
        if action == "commit":
            message = str((await _body(request)).get("message", ""))
            return self._start(request, service, "commit", self.lifecycle.commit(draft, message))
        raise Refused("INVALID_ARGUMENT", f"There is no action {action!r}: use validate or commit.")

    async def _validate(self, draft: Draft) -> dict[str, Any]:
        errors = [
            {"type": "ERROR", "id": "com.vmware.vcIntegrity.lifecycle.draft", "message": localized(words)}
            for words in await self.lifecycle.validate(draft)
        ]
        return {"notifications": {"errors": errors, "warnings": [], "info": []}}

    def draft_components(self, request: web.Request) -> Any:
        return self._shown(self._draft(request).components)

    def draft_component(self, request: web.Request) -> Any:
        shown, name = self._shown(self._draft(request).components), request.match_info["component"]
        if name not in shown:
            raise Refused("NOT_FOUND", f"The draft has no component {name}.")
        return shown[name]

    async def set_component(self, request: web.Request) -> None:
        draft, version = self._draft(request), (await _body(request)).get("version")
        if not isinstance(version, str):
            raise Refused("INVALID_ARGUMENT", "version: the component's version is missing.")
        self.lifecycle.set_component(draft, request.match_info["component"], version)

    def delete_component(self, request: web.Request) -> None:
        self.lifecycle.delete_component(self._draft(request), request.match_info["component"])

    async def update_components(self, request: web.Request) -> None:
        draft, spec = self._draft(request), await _body(request)
        for name in spec.get("components_to_delete") or ():
            self.lifecycle.delete_component(draft, name)
        for name, version in (spec.get("components_to_set") or {}).items():
            self.lifecycle.set_component(draft, name, version)

    def _start(self, request: web.Request, service: str, operation: str, work: Any) -> web.Response:
        cluster = request.match_info.get("cluster")
        target = {"type": "ClusterComputeResource", "id": cluster} if cluster else {}
        task = self.tasks.start(service, operation, work, request[SESSION].user, **target)
        return web.json_response(task, status=202)


def _version(vib: Vib) -> dict[str, str]:
    return {"version": vib.version, "display_version": vib.version.partition("-")[0]}


def _metadata(draft: Draft) -> dict[str, str]:
    return {"owner": draft.owner, "status": "VALID", "creation_time": stamp(draft.created)}


def _host_status(outcome: HostOutcome, now: str) -> dict[str, Any]:
    kind = "errors" if outcome.status == "ERROR" else "info"
    note = {"type": kind.upper().rstrip("S"), "id": "com.vmware.vcIntegrity.lifecycle", "time": now,
            "message": localized(outcome.message)}  # fmt: skip
    return {"status": outcome.status, "start_time": now, "end_time": now, "notifications": {kind: [note]}}


async def _body(request: web.Request) -> dict[str, Any]:
    if not await request.read():
        return {}
    try:
        body = await request.json()
    except ValueError as wrong:
        raise Refused("INVALID_ARGUMENT", f"The body is not JSON: {wrong}") from wrong
    if not isinstance(body, dict):
        raise Refused("INVALID_ARGUMENT", "The body is not a JSON object.")
    return body
