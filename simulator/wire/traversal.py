"""Which objects a property filter selects: object sets, traversal specs by name or in place, recursion."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pyVmomi import vim, vmodl

from simulator.core import Managed
from simulator.paths import InvalidPath
from simulator.wire.property_types import path_hint

__all__ = ["Find", "Selection", "children", "select"]

Find = Callable[[str], Managed | None]
"""How an object is looked up by its moid."""


@dataclass(slots=True)
class Selection:
    """The selected objects in the order of discovery, and the moids of all objects that were walked through."""

    objects: dict[str, Managed]
    walked: set[str]


def select(object_set: list[Any], find: Find, version: str) -> Selection:
    """Follow a filter's object specs; raises `ManagedObjectNotFound`, `InvalidProperty` or `InvalidArgument`."""
    names: dict[str, Any] = {}
    for spec in object_set:
        _collect_names(spec.selectSet, names)
    found = Selection({}, set())
    visited: set[tuple[str, int]] = set()
    for spec in object_set:
        start = find(spec.obj._moId)
        if start is None:
            raise vmodl.fault.ManagedObjectNotFound(
                obj=spec.obj, msg=f"The object {spec.obj._moId} has already been deleted."
            )
        if not spec.skip:
            found.objects[start.moid] = start
        stack = [(start, tuple(spec.selectSet or ()))]
        while stack:
            obj, select_set = stack.pop()
            for selection in select_set:
                traversal = _resolve(selection, names)
                if not issubclass(obj.vim_type, traversal.type) or (obj.moid, id(traversal)) in visited:
                    continue
                visited.add((obj.moid, id(traversal)))
                found.walked.add(obj.moid)
                further = tuple(traversal.selectSet or ())
                for target in _targets(obj, traversal.path, find, version):
                    if not traversal.skip:
                        found.objects[target.moid] = target
                    if further:
                        stack.append((target, further))
    return found


def _collect_names(select_set: Any, names: dict[str, Any]) -> None:
    for selection in select_set or ():
        if isinstance(selection, vmodl.query.PropertyCollector.TraversalSpec):
            if selection.name:
                names[selection.name] = selection
            _collect_names(selection.selectSet, names)


def _resolve(selection: Any, names: dict[str, Any]) -> Any:
    if isinstance(selection, vmodl.query.PropertyCollector.TraversalSpec):
        return selection
    try:
        return names[selection.name]
    except KeyError:
        raise vmodl.fault.InvalidArgument(
            invalidProperty="selectSet", msg=f"No traversal spec is called {selection.name!r}."
        ) from None


def _targets(obj: Managed, path: str, find: Find, version: str) -> Iterator[Managed]:
    try:
        path_hint(obj.vim_type, path, version)
        value = obj.read(path)
    except InvalidPath:
        raise vmodl.query.InvalidProperty(name=path, msg=f"{obj.vim_type.__name__} has no property `{path}`.") from None
    if value is None:
        return
    for ref in value if isinstance(value, (list, tuple)) else (value,):
        target = ref if isinstance(ref, Managed) else find(ref._moId)
        if target is not None:
            yield target


_CHILD_PROPERTIES: tuple[tuple[Any, tuple[str, ...]], ...] = (
    (vim.Folder, ("childEntity",)),
    (vim.Datacenter, ("vmFolder", "hostFolder", "datastoreFolder", "networkFolder")),
    (vim.ComputeResource, ("host", "resourcePool")),
    (vim.ResourcePool, ("resourcePool", "vm")),
    (vim.HostSystem, ("vm",)),
)


def children(obj: Managed, find: Find) -> Iterator[Managed]:
    """The objects below a container, as a container view understands containment."""
    for kind, paths in _CHILD_PROPERTIES:
        if issubclass(obj.vim_type, kind):
            for path in paths:
                yield from _targets(obj, path, find, "vim.version.v8_0_0_0")
