"""Container, list and inventory views: live lists of objects that a session keeps."""

from __future__ import annotations

from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Call, Managed, method, prop
from simulator.wire.session import Session
from simulator.wire.traversal import children

__all__ = ["ContainerView", "ListView", "ViewManager"]

_LEAVES = (vim.VirtualMachine, vim.Datastore, vim.Network)
"""Types that contain nothing: their changes cannot change what a container view shows."""


class ContainerView(Managed):
    """The objects of some types below a container."""

    vim_type = vim.view.ContainerView

    def __init__(self, session: Session, container: Managed, types: tuple[Any, ...], recursive: bool) -> None:
        super().__init__(session.registry, session.new_moid())
        self.session = session
        self.container = container
        self.types = types
        self.recursive = recursive
        self._members: list[Managed] = []
        self._walked: set[str] = set()
        self._read_at = -1

    @prop("container")
    def container_ref(self) -> Any:
        return self.container.ref()

    @prop("type")
    def type_list(self) -> list[Any]:
        return list(self.types)

    @prop("recursive")
    def is_recursive(self) -> bool:
        return self.recursive

    @prop("view")
    def view(self) -> list[Managed]:
        """The members. They are gathered again only after one of the containers walked through has changed."""
        changed = self.registry.changed_since(self._read_at) if self._read_at >= 0 else None
        if changed is None or not changed.isdisjoint(self._walked):
            self._gather()
        self._read_at = self.registry.revision
        return self._members

    def stale(self, changed: set[str]) -> bool:
        """Whether changes of these objects may have changed the members."""
        return not changed.isdisjoint(self._walked)

    @method("DestroyView")
    def destroy(self, call: Call) -> None:
        self.session.drop(self)

    def _gather(self) -> None:
        members: dict[str, Managed] = {}
        walked = {self.container.moid}
        stack = [self.container]
        while stack:
            for child in children(stack.pop(), self.session.find):
                if not self.types or issubclass(child.vim_type, self.types):
                    members[child.moid] = child
                if self.recursive and not issubclass(child.vim_type, _LEAVES) and child.moid not in walked:
                    walked.add(child.moid)
                    stack.append(child)
        self._members, self._walked = list(members.values()), walked


class ListView(Managed):
    """A list of objects that the client makes up."""

    vim_type = vim.view.ListView

    def __init__(self, session: Session, members: list[Any]) -> None:
        super().__init__(session.registry, session.new_moid())
        self.session = session
        self._refs = {ref._moId: ref for ref in members}

    @prop("view")
    def view(self) -> list[Any]:
        return list(self._refs.values())

    @method("ModifyListView")
    def modify(self, call: Call, add: list[Any] | None, remove: list[Any] | None) -> list[Any]:
        unresolved = []
        for ref in remove or ():
            self._refs.pop(ref._moId, None)
        for ref in add or ():
            if self.session.find(ref._moId) is None:
                unresolved.append(ref)
            else:
                self._refs[ref._moId] = ref
        self.touch()
        return unresolved

    @method("ResetListView")
    def reset(self, call: Call, obj: list[Any] | None) -> list[Any]:
        self._refs.clear()
        return self.modify(call, obj, None)

    @method("DestroyView")
    def destroy(self, call: Call) -> None:
        self.session.drop(self)


class ViewManager(Managed):
    """Makes views; they belong to the caller's session."""

    vim_type = vim.view.ViewManager

    @prop("viewList")
    def view_list(self) -> list[Any]:
        return []

    @method("CreateContainerView")
    def create_container_view(self, call: Call, container: Any, type: list[Any] | None, recursive: bool) -> Managed:
        session = _session(call)
        found = session.find(container._moId)
        if found is None:
            raise vmodl.fault.ManagedObjectNotFound(obj=container, msg=f"There is no {container._moId}.")
        containers = (vim.Folder, vim.Datacenter, vim.ComputeResource, vim.ResourcePool, vim.HostSystem)
        if not issubclass(found.vim_type, containers):
            raise vmodl.fault.InvalidArgument(
                invalidProperty="container", msg=f"A {found.vim_type.__name__} contains nothing."
            )
        return session.add(ContainerView(session, found, tuple(type or ()), recursive))

    @method("CreateListView")
    def create_list_view(self, call: Call, obj: list[Any] | None) -> Managed:
        session = _session(call)
        return session.add(ListView(session, [ref for ref in obj or () if session.find(ref._moId)]))


def _session(call: Call) -> Session:
    if not isinstance(call.session, Session):
        raise TypeError("views are made over the wire only")
    return call.session
