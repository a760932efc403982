"""Property paths: `config.hardware.device[202].key`, `config.extraConfig["k"].value`, read from data objects."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

from pyVmomi.VmomiSupport import DataObject

__all__ = ["InvalidPath", "PathStep", "parse_path", "walk"]

_STEP = re.compile(r'\.?([A-Za-z_]\w*)|\[(?:"((?:[^"\\]|\\.)*)"|([^\]"]*))\]')


class InvalidPath(ValueError):
    """The path is malformed or names a property that the type does not have."""


class PathStep(NamedTuple):
    """One step: a property name, or an array element's key when `is_key`."""

    name: str
    is_key: bool


@lru_cache(maxsize=4096)
def parse_path(path: str) -> tuple[PathStep, ...]:
    """Split a path into its steps; raises `InvalidPath` when it is malformed."""
    steps: list[PathStep] = []
    at = 0
    while at < len(path):
        found = _STEP.match(path, at)
        if not found or (found[1] is not None and (path[at] == ".") != bool(steps)):
            raise InvalidPath(path)
        if found[1] is not None:
            steps.append(PathStep(found[1], is_key=False))
        else:
            key = found[3] if found[2] is None else found[2].replace('\\"', '"')
            steps.append(PathStep(key, is_key=True))
        at = found.end()
    if not steps or steps[0].is_key:
        raise InvalidPath(path)
    return tuple(steps)


def walk(value: Any, steps: tuple[PathStep, ...]) -> Any:
    """Follow `steps` from a data object; `None` where something on the way is unset.

    Raises `InvalidPath` for a property that the object's type does not have. An array element is found by its
    `key` property, as the vSphere API defines key paths; a missing element reads as unset.
    """
    for step in steps:
        if value is None:
            return None
        if step.is_key:
            if not isinstance(value, list):
                raise InvalidPath(step.name)
            value = next((item for item in value if str(getattr(item, "key", None)) == step.name), None)
        elif isinstance(value, DataObject):
            try:
                value = getattr(value, step.name)
            except AttributeError:
                raise InvalidPath(step.name) from None
        else:
            raise InvalidPath(step.name)
    return value
