"""Which type the API declares at a property path, and whether the path exists in an API version."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from pyVmomi.VmomiSupport import DataObject, ManagedObject

from simulator.paths import InvalidPath, parse_path
from simulator.wire.versions import exists_in

__all__ = ["path_hint", "top_level_paths"]


@lru_cache(maxsize=16384)
def path_hint(vim_type: Any, path: str, version: str) -> Any:
    """The declared type at `path`, or `None` where only the value itself tells (beyond a keyed element).

    Raises `InvalidPath` for a property that the type does not have, or not yet in `version`.
    """
    current: Any = vim_type
    keyed = False
    for depth, step in enumerate(parse_path(path)):
        if current is None:
            continue
        if step.is_key:
            if not issubclass(current, list):
                raise InvalidPath(path)
            current, keyed = current.Item, True
            continue
        if not issubclass(current, DataObject) and (depth or not issubclass(current, ManagedObject)):
            raise InvalidPath(path)
        try:
            info = current._GetPropertyInfo(step.name)
        except AttributeError:
            if not keyed:
                raise InvalidPath(path) from None
            current = None
            continue
        if not exists_in(version, info.version):
            raise InvalidPath(path)
        current = info.type
    return current


@lru_cache(maxsize=1024)
def top_level_paths(vim_type: Any, version: str) -> tuple[str, ...]:
    """All properties of a managed type, for a property set with `all`."""
    return tuple(info.name for info in vim_type._GetPropertyList() if exists_in(version, info.version))
