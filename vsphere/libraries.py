"""Content libraries over vCenter's REST API: find an item by name, and deploy a VM from it.

Source: vSphere Automation API 8.0, `content/library`, `vcenter/ovf/library-item`, `vcenter/vm-template/library-items`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim

from contracts.errors import BadRequest, Conflict, NeedsHuman
from contracts.machine import VmTarget
from vsphere.connection import GatewayStub
from vsphere.names import close_matches
from vsphere.rest_session import RestSession, message_text, quoted, vapi_words

__all__ = ["DEPLOYABLE", "Libraries", "LibraryItem", "libraries"]

DEPLOYABLE = ("ovf", "vm-template")
"""Types of items that a VM can be made from."""
_LIBRARY, _ITEM = "/api/content/library", "/api/content/library/item"
_TEMPLATE = "/api/vcenter/vm-template/library-items"
_MOST_NAMED = 50


@dataclass(frozen=True)
class LibraryItem:
    """An item that a VM can be made from."""

    id: str
    type: str
    """`ovf` or `vm-template`."""
    template_moid: str = ""
    """Of a `vm-template`: the VM template in the inventory that holds it."""


@contextmanager
def libraries(si: vim.ServiceInstance, timeout_s: float | None = None) -> Iterator["Libraries"]:
    """A REST session beside the SOAP session, logged out at the end; `timeout_s` is for the longest call.

    Raises `BadRequest` (login), `NotSupported` (no REST API) or `Unreachable`.
    """
    stub = si._stub
    if not isinstance(stub, GatewayStub):
        raise TypeError("content libraries need a session of a SessionPool")
    settings: Any = stub.endpoint.settings
    if timeout_s is not None:
        settings = settings.model_copy(update={"read_timeout_s": timeout_s})
    opened = Libraries(settings)
    opened.login()
    try:
        yield opened
    finally:
        opened.logout()


class Libraries(RestSession):
    """The content libraries of one vCenter. Every call is sent once."""

    def find(self, wanted: str) -> LibraryItem:
        """The item `library/item`; raises `BadRequest` with close matches, or when no VM can be made from it."""
        library, _, name = wanted.partition("/")
        ids = self._send("POST", f"{_LIBRARY}?action=find", {"name": library})
        if len(ids) != 1:
            raise BadRequest(self._wrong("content library", library, ids, _LIBRARY, _LIBRARY, "vCenter"))
        listing = f"{_ITEM}?library_id={quoted(ids[0])}"
        items = self._send("POST", f"{_ITEM}?action=find", {"library_id": ids[0], "name": name})
        if len(items) != 1:
            raise BadRequest(self._wrong("library item", name, items, listing, _ITEM, f"library {library}"))
        kind = str((self._send("GET", f"{_ITEM}/{quoted(items[0])}") or {}).get("type", ""))
        if kind not in DEPLOYABLE:
            raise BadRequest(
                f"library item {wanted!r} is of type {kind or 'unknown'!r}; a VM is made from {' or '.join(DEPLOYABLE)}"
            )
        template = self._send("GET", f"{_TEMPLATE}/{quoted(items[0])}") if kind == "vm-template" else None
        return LibraryItem(items[0], kind, str((template or {}).get("vm_template") or ""))

    def deploy(self, target: VmTarget, name: str, annotation: str, host: str = "") -> str:
        """A VM from the item, powered off; returns its moid once it is there: the call takes as long as the copy.

        Raises `Conflict` when the name is taken, `NeedsHuman` with vCenter's words when it cannot, and `Unreachable`
        when no answer came: look for the annotation then.
        """
        if target.library_item_type == "ovf":
            return self._deploy_ovf(target, name, annotation, host)
        placement = {"folder": target.folder, "resource_pool": target.pool, "cluster": target.cluster}
        if host:
            placement = {"folder": target.folder, "resource_pool": target.pool, "host": host}
        spec: dict[str, Any] = {"name": name, "description": annotation, "placement": placement, "powered_on": False}
        if target.datastore:
            spec["vm_home_storage"] = spec["disk_storage"] = {"datastore": target.datastore}
        return str(self._send("POST", f"{_TEMPLATE}/{quoted(target.library_item)}?action=deploy", spec))

    def _deploy_ovf(self, target: VmTarget, name: str, annotation: str, host: str) -> str:
        where = {"resource_pool_id": target.pool, "folder_id": target.folder}
        spec: dict[str, Any] = {"name": name, "annotation": annotation, "accept_all_EULA": True}
        if host:
            where["host_id"] = host
        if target.datastore:
            spec |= {"default_datastore_id": target.datastore, "storage_provisioning": "thin"}
        body = {"target": where, "deployment_spec": spec}
        path = f"/api/vcenter/ovf/library-item/{quoted(target.library_item)}?action=deploy"
        answer = self._send("POST", path, body) or {}
        if not answer.get("succeeded"):
            said = "; ".join(_issue(each) for each in (answer.get("error") or {}).get("errors") or ())
            meaning = Conflict if "already exists" in said else NeedsHuman
            raise meaning(f"{self._endpoint.where}: deploy {name}: {said or 'vCenter gave no reason'}")
        return str(answer["resource_id"]["id"])

    def _wrong(self, kind: str, name: str, ids: list[str], listing: str, each: str, where: str) -> str:
        if ids:
            return f"{kind} {name!r} is not the only one in {where}; rename one"
        known = [
            str((self._send("GET", f"{each}/{quoted(found)}") or {}).get("name", ""))
            for found in (self._send("GET", listing) or [])[:_MOST_NAMED]
        ]
        return f"{kind} {name!r} is not in {where}; {close_matches(name, known)}"


def _issue(found: dict[str, Any]) -> str:
    """An OVF issue: it has a message, or a vAPI error."""
    return message_text(found["message"]) if found.get("message") else vapi_words(found.get("error"))
