"""Register the search attributes that the workflows set, and refuse to serve when one has another type.

An attribute that is not registered leaves a run stuck in failing workflow tasks, so this is checked before any
worker starts.
"""

import asyncio
import time
from typing import Any

from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.common import SearchAttributeKey
from temporalio.service import RPCError, RPCStatusCode

from contracts import search_attributes
from contracts.errors import Conflict, NeedsHuman

__all__ = ["create_command", "ensure_search_attributes", "type_name"]

VISIBLE_TIMEOUT_S = 30.0
"""How long a server may take to show an attribute that it has accepted (they are cached)."""

NOT_OURS = (RPCStatusCode.PERMISSION_DENIED, RPCStatusCode.UNAUTHENTICATED, RPCStatusCode.UNIMPLEMENTED)


def type_name(key: SearchAttributeKey[Any]) -> str:
    """The type as the `temporal` program spells it: `Keyword`, `KeywordList`, …"""
    return _spelled(int(key.indexed_value_type))


def create_command(namespace: str, keys: list[SearchAttributeKey[Any]]) -> str:
    """The command with which somebody who may creates `keys`."""
    pairs = " ".join(f"--name {key.name} --type {type_name(key)}" for key in keys)
    return f"temporal operator search-attribute create --namespace {namespace} {pairs}"


async def ensure_search_attributes(client: Client) -> list[str]:
    """Add what is missing in the client's namespace and compare every type; the names that were added.

    Raises `Conflict` when an attribute exists with another type, `NeedsHuman` with the command to run when the
    server does not let us list or add them, `RPCError` for anything else.
    """
    present = await _listed(client)
    _compare(client.namespace, present)
    missing = [key for key in search_attributes.ALL if key.name not in present]
    if not missing:
        return []
    request = AddSearchAttributesRequest(
        namespace=client.namespace,
        search_attributes={key.name: _value_type(key) for key in missing},
    )
    try:
        await client.operator_service.add_search_attributes(request)
    except RPCError as error:
        # Another worker that starts at the same time may have been faster; the listing below tells.
        if error.status is not RPCStatusCode.ALREADY_EXISTS:
            raise _not_allowed(client.namespace, missing, error) from error
    deadline = time.monotonic() + VISIBLE_TIMEOUT_S
    while missing_still := [key for key in missing if key.name not in present]:
        if time.monotonic() > deadline:
            raise NeedsHuman(
                f"Temporal accepted the search attributes {_names(missing_still)} in {client.namespace!r} but "
                f"does not list them after {VISIBLE_TIMEOUT_S:.0f} s; look at `temporal operator search-attribute list`"
            )
        present = await _listed(client)
        await asyncio.sleep(0.1)
    _compare(client.namespace, present)
    return [key.name for key in missing]


async def _listed(client: Client) -> dict[str, int]:
    request = ListSearchAttributesRequest(namespace=client.namespace)
    try:
        reply = await client.operator_service.list_search_attributes(request)
    except RPCError as error:
        raise _not_allowed(client.namespace, list(search_attributes.ALL), error) from error
    return {**reply.system_attributes, **reply.custom_attributes}


def _compare(namespace: str, present: dict[str, int]) -> None:
    """Raise `Conflict` that names every attribute whose type differs."""
    wrong = [
        f"{key.name} is {_spelled(present[key.name])} and must be {type_name(key)}"
        for key in search_attributes.ALL
        if key.name in present and present[key.name] != key.indexed_value_type
    ]
    if wrong:
        raise Conflict(
            f"search attributes of Temporal namespace {namespace!r} have other types: {'; '.join(wrong)}. "
            "Remove them (`temporal operator search-attribute remove --name …`) if nothing uses them, or serve from "
            "another namespace (temporal.namespace)"
        )


def _not_allowed(namespace: str, keys: list[SearchAttributeKey[Any]], error: RPCError) -> Exception:
    if error.status not in NOT_OURS:
        return error
    return NeedsHuman(
        f"Temporal does not let gpuwright list or add search attributes in namespace {namespace!r} ({error.message}); "
        f"let somebody who may run this, and start again:\n  {create_command(namespace, keys)}"
    )


def _value_type(key: SearchAttributeKey[Any]) -> IndexedValueType.ValueType:
    return IndexedValueType.ValueType(int(key.indexed_value_type))


def _spelled(value_type: int) -> str:
    name = IndexedValueType.Name(IndexedValueType.ValueType(value_type)).removeprefix("INDEXED_VALUE_TYPE_")
    return "".join(part.capitalize() for part in name.split("_"))


def _names(keys: list[SearchAttributeKey[Any]]) -> str:
    return ", ".join(key.name for key in keys)
