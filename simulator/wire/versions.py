"""API versions: which one a request speaks, and what exists in it."""

from __future__ import annotations

from functools import lru_cache

from pyVmomi.VmomiSupport import GetServiceVersions, IsChildVersion, versionIdMap, versionMap

__all__ = ["NEWEST", "api_version", "exists_in", "parse_version", "service_versions_xml", "version_tuple"]

_NAMESPACE = "vim25"


def version_tuple(api_version: str) -> tuple[int, ...]:
    """`8.0.2.0` as a tuple that compares as versions do; raises `ValueError` when it is none."""
    return tuple(int(part) for part in api_version.split("."))


def _released() -> dict[str, str]:
    """pyVmomi's public vim versions by their wire id: `8.0.2.0` → `vim.version.v8_0_2_0`."""
    found = {}
    for version in GetServiceVersions(_NAMESPACE):
        wire_id = versionIdMap[version]
        if wire_id and wire_id.replace(".", "").isdigit():
            found[wire_id] = version
    return found


_BY_ID = _released()
NEWEST: str = _BY_ID[max(_BY_ID, key=version_tuple)]
"""pyVmomi's name of the newest version it knows."""


def parse_version(api_version: str) -> str:
    """pyVmomi's name for an API version such as `8.0.2.0`.

    A version between or beyond the known ones counts as the highest known one that is not newer: clients newer
    than the server are accepted. Raises `ValueError` when it is older than all.
    """
    if api_version in _BY_ID:
        return _BY_ID[api_version]
    wanted = version_tuple(api_version)
    older = [known for known in _BY_ID if version_tuple(known) <= wanted]
    if not older:
        raise ValueError(f"API version {api_version} is unknown: use one of {', '.join(sorted(_BY_ID))}")
    return _BY_ID[max(older, key=version_tuple)]


def api_version(version: str) -> str:
    """The wire id (`8.0.2.0`) of a pyVmomi version name."""
    return str(versionIdMap[version])


def negotiated(soap_action: str, server_version: str) -> str:
    """The version a request is served in: what its SOAPAction asks for, capped by the server's own.

    `soap_action` may be quoted, unquoted or absent (`urn:vim25/8.0.2.0`). Without a version it is the oldest, as
    the SOAP binding defines it.
    """
    asked = soap_action.strip().strip('"').removeprefix("urn:")
    if asked in versionMap:
        version = versionMap[asked]
        wire_id = versionIdMap[version] or "2.5"
    else:
        _, _, wire_id = asked.partition("/")
        if not wire_id:
            return server_version
        try:
            version = parse_version(wire_id)
        except ValueError:
            return server_version
    try:
        newer = version_tuple(wire_id) > version_tuple(api_version(server_version))
    except ValueError:
        return server_version
    return server_version if newer else version


@lru_cache(maxsize=65536)
def exists_in(version: str, since: str) -> bool:
    """Whether something introduced in pyVmomi version `since` exists in `version`."""
    return bool(IsChildVersion(version, since))


def service_versions_xml(server_version: str) -> str:
    """`/sdk/vimServiceVersions.xml`: the advertised version and all that came before it."""
    own = version_tuple(api_version(server_version))
    prior = sorted((known for known in _BY_ID if version_tuple(known) < own), key=version_tuple, reverse=True)
    listed = "".join(f"<version>{known}</version>" for known in prior)
    return (
        '<?xml version="1.0" encoding="UTF-8" ?><namespaces version="1.0"><namespace>'
        f"<name>urn:{_NAMESPACE}</name><version>{api_version(server_version)}</version>"
        f"<priorVersions>{listed}</priorVersions></namespace></namespaces>"
    )
