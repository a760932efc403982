"""vCenter's content libraries over REST: find items, and deploy VMs from VM templates and OVF templates.

Paths and shapes are those of the vSphere Automation API 8.0.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from pyVmomi import vmodl

from simulator.laws import libraries
from simulator.laws.lifecycle import Refused
from simulator.wire.rest import RestApi, localized, stamp
from simulator.world import Library, LibraryItem, World

if TYPE_CHECKING:
    from simulator.service import Simulator

__all__ = ["ContentLibraryApi"]

_LIBRARY = "/api/content/library"
_ITEM = _LIBRARY + "/item"
_VM_TEMPLATE = "/api/vcenter/vm-template/library-items/{item}"
_OVF = "/api/vcenter/ovf/library-item/{item}"


class ContentLibraryApi(RestApi):
    """The libraries; logins are those of the other REST paths."""

    def __init__(self, simulator: Simulator) -> None:
        super().__init__(simulator)
        if not isinstance(simulator.world, World):
            raise TypeError("content libraries need VMs")
        self.world: World = simulator.world

    def add_routes(self, app: web.Application) -> None:
        """Put the paths into an application."""
        self.get(app, _LIBRARY, self.list_libraries)
        app.router.add_post(_LIBRARY, self.answer(self.find_library))
        self.get(app, _ITEM, self.list_items)
        app.router.add_post(_ITEM, self.answer(self.find_item))
        self.get(app, _ITEM + "/{item}", self.get_item)
        self.get(app, _LIBRARY + "/{library}", self.get_library)
        self.get(app, _VM_TEMPLATE, self.get_template)
        app.router.add_post(_VM_TEMPLATE, self.answer(self.deploy_template))
        app.router.add_post(_OVF, self.answer(self.deploy_ovf))

    def list_libraries(self, request: web.Request) -> Any:
        return list(self.world.libraries)

    async def find_library(self, request: web.Request) -> Any:
        wanted = await _body(request, "find")
        return [found.id for found in self.world.libraries.values() if wanted.get("name") in (None, found.name)]

    def get_library(self, request: web.Request) -> Any:
        found = libraries.library(self.world, request.match_info["library"])
        return {"id": found.id, "name": found.name, "type": "LOCAL", "creation_time": stamp(found.created)}

    def list_items(self, request: web.Request) -> Any:
        if "library_id" not in request.query:
            raise Refused("INVALID_ARGUMENT", "Name the library: library_id.")
        return list(libraries.library(self.world, request.query["library_id"]).items)

    async def find_item(self, request: web.Request) -> Any:
        wanted = await _body(request, "find")
        return [
            found.id
            for library in self.world.libraries.values()
            for found in library.items.values()
            if wanted.get("name") in (None, found.name)
            and wanted.get("library_id") in (None, library.id)
            and wanted.get("type") in (None, found.kind)
        ]

    def _item(self, request: web.Request, kind: str | None = None) -> tuple[Library, LibraryItem]:
        return libraries.item(self.world, request.match_info["item"], kind)

    def get_item(self, request: web.Request) -> Any:
        library, found = self._item(request)
        return {
            "id": found.id,
            "library_id": library.id,
            "name": found.name,
            "type": found.kind,
            "size": found.source.committed_bytes,
            "content_version": "1",
            "cached": True,
            "creation_time": stamp(library.created),
        }

    def get_template(self, request: web.Request) -> Any:
        source = self._item(request, "vm-template")[1].source
        return {
            "guest_OS": source.guest_id,
            "cpu": {"count": source.cpus, "cores_per_socket": 1},
            "memory": {"size_MiB": source.memory_mib},
            "vm_template": source.moid,
            "vm_home_storage": {"datastore": source.datastores[0].moid},
            "nics": {},
            "disks": {},
        }

    async def deploy_template(self, request: web.Request) -> Any:
        """The answer is the VM's id, once it is there."""
        found = self._item(request, "vm-template")[1]
        spec = await _body(request, "deploy")
        placement = spec.get("placement") or {}
        place = {
            "pool": placement.get("resource_pool", ""),
            "host": placement.get("host", ""),
            "cluster": placement.get("cluster", ""),
            "datastore": (spec.get("vm_home_storage") or {}).get("datastore", ""),
        }
        return await self._deployed(found, spec, placement.get("folder", ""), place)

    async def _deployed(self, found: LibraryItem, spec: dict[str, Any], folder: str, place: dict[str, str]) -> str:
        if not isinstance(spec.get("name"), str) or not spec["name"]:
            raise Refused("INVALID_ARGUMENT", "The VM needs a name.")
        try:
            made = await libraries.deploy(
                self.world,
                found,
                spec["name"],
                folder,
                place,
                annotation=spec.get("description"),
                power_on=bool(spec.get("powered_on")),
            )
        except vmodl.MethodFault as fault:
            exists = type(fault).__name__.endswith("DuplicateName")
            raise Refused("ALREADY_EXISTS" if exists else "ERROR", fault.msg or type(fault).__name__) from fault
        return made.moid

    async def deploy_ovf(self, request: web.Request) -> Any:
        """What goes wrong while deploying is in the answer, whose status is 200 all the same."""
        found = self._item(request, "ovf")[1]
        body = await _body(request, "deploy")
        spec, target = body.get("deployment_spec") or {}, body.get("target") or {}
        if not spec.get("accept_all_EULA"):
            raise Refused("INVALID_ARGUMENT", "deployment_spec.accept_all_EULA must be true.")
        if not target.get("resource_pool_id"):
            raise Refused("INVALID_ARGUMENT", "target.resource_pool_id is missing.")
        place = {
            "pool": target["resource_pool_id"],
            "host": target.get("host_id", ""),
            "datastore": spec.get("default_datastore_id", ""),
        }
        try:
            moid = await self._deployed(
                found,
                {"name": spec.get("name") or found.name, "description": spec.get("annotation")},
                target.get("folder_id", ""),
                place,
            )
        except Refused as refused:
            if refused.error_type == "NOT_FOUND":
                raise
            return {
                "succeeded": False,
                "error": {
                    "errors": [{"category": "SERVER", "message": localized(str(refused))}],
                    "warnings": [],
                    "information": [],
                },
            }
        return {"succeeded": True, "resource_id": {"type": "VirtualMachine", "id": moid}}


async def _body(request: web.Request, action: str) -> dict[str, Any]:
    """The request's JSON object; raises `Refused` for another action or no object."""
    if request.query.get("action") != action:
        raise Refused("NOT_FOUND", f"There is no action {request.query.get('action')}.")
    try:
        body = await request.json()
    except ValueError as wrong:
        raise Refused("INVALID_ARGUMENT", f"The body is not JSON: {wrong}") from wrong
    if not isinstance(body, dict):
        raise Refused("INVALID_ARGUMENT", "The body is not a JSON object.")
    return body
