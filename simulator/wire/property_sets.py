"""Reading the properties that a filter asks of an object, as XML."""

from __future__ import annotations

from typing import Any, NamedTuple

from pyVmomi import vmodl

from simulator.core import Managed
from simulator.paths import InvalidPath
from simulator.wire.property_types import path_hint, top_level_paths
from simulator.wire.soap_write import escape, value_xml

__all__ = ["ObjectProperties", "PropertyPlan", "object_content"]


class ObjectProperties(NamedTuple):
    """What an object shows: `<val>` elements by path, and faults by path for what could not be read."""

    values: dict[str, str]
    missing: dict[str, Any]


class PropertyPlan:
    """The property sets of one filter, merged for each type of object.

    Raises `vmodl.query.InvalidProperty` for a path that a set's type does not have in this API version.
    """

    def __init__(self, prop_set: list[Any], version: str) -> None:
        self.version = version
        self._specs = prop_set
        self._by_type: dict[Any, tuple[tuple[str, Any], ...]] = {}
        for spec in prop_set:
            for path in spec.pathSet or ():
                self._hint(spec.type, path)

    def paths(self, vim_type: Any) -> tuple[tuple[str, Any], ...]:
        """The paths asked of a type, each with the type declared there; empty when no set is about it."""
        if vim_type not in self._by_type:
            merged: dict[str, Any] = {}
            for spec in self._specs:
                if issubclass(vim_type, spec.type):
                    asked = top_level_paths(vim_type, self.version) if spec.all else spec.pathSet or ()
                    merged.update((path, self._hint(vim_type, path)) for path in asked)
            self._by_type[vim_type] = tuple(merged.items())
        return self._by_type[vim_type]

    def covers(self, vim_type: Any) -> bool:
        """Whether any property set is about this type."""
        return any(issubclass(vim_type, spec.type) for spec in self._specs)

    def read(self, obj: Managed) -> ObjectProperties:
        """Everything asked of an object. A property that is unset is left out."""
        values: dict[str, str] = {}
        missing: dict[str, Any] = {}
        for path, hint in self.paths(obj.vim_type):
            try:
                value = obj.read(path)
            except InvalidPath:
                continue  # beyond a keyed element, whose type only this object tells
            except vmodl.MethodFault as fault:
                missing[path] = fault
                continue
            if value is not None:
                values[path] = value_xml("val", value, object, self.version, hint)
        return ObjectProperties(values, missing)

    def _hint(self, vim_type: Any, path: str) -> Any:
        try:
            return path_hint(vim_type, path, self.version)
        except InvalidPath:
            raise vmodl.query.InvalidProperty(
                name=path, msg=f"{vim_type.__name__} has no property `{path}` in this API version."
            ) from None


def reference_xml(tag: str, obj: Managed) -> str:
    """A reference as an element."""
    return f'<{tag} type="{obj.vim_type._wsdlName}">{escape(obj.moid)}</{tag}>'


def missing_xml(missing: dict[str, Any], version: str) -> str:
    """`missingSet` elements."""
    return "".join(
        f"<missingSet><path>{escape(path)}</path>{value_xml('fault', fault, vmodl.MethodFault, version)}</missingSet>"
        for path, fault in missing.items()
    )


def object_content(tag: str, obj: Managed, plan: PropertyPlan) -> str:
    """An `ObjectContent` element."""
    read = plan.read(obj)
    properties = "".join(
        f"<propSet><name>{escape(path)}</name>{value}</propSet>" for path, value in read.values.items()
    )
    return f"<{tag}>{reference_xml('obj', obj)}{properties}{missing_xml(read.missing, plan.version)}</{tag}>"
