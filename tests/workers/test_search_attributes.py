import uuid

import pytest
from google.protobuf.duration_pb2 import Duration
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import AddSearchAttributesRequest, ListSearchAttributesRequest
from temporalio.api.workflowservice.v1 import RegisterNamespaceRequest
from temporalio.client import Client
from temporalio.service import RPCError, RPCStatusCode

from contracts import search_attributes
from contracts.errors import Conflict, NeedsHuman
from workers.search_attributes import create_command, ensure_search_attributes
from workers.temporal_server import DevServer


@pytest.fixture
async def other_namespace(temporal_client: Client, temporal_server: DevServer) -> Client:
    """A client of a new namespace, in which no search attribute is registered."""
    name = f"other-{uuid.uuid4().hex[:8]}"
    await temporal_client.workflow_service.register_namespace(
        RegisterNamespaceRequest(namespace=name, workflow_execution_retention_period=Duration(seconds=86_400))
    )
    return await Client.connect(temporal_server.address, namespace=name)


async def test_missing_attributes_are_added_once(other_namespace: Client) -> None:
    assert await ensure_search_attributes(other_namespace) == [key.name for key in search_attributes.ALL]
    listed = await other_namespace.operator_service.list_search_attributes(
        ListSearchAttributesRequest(namespace=other_namespace.namespace)
    )
    assert listed.custom_attributes["GpuHost"] == IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    assert await ensure_search_attributes(other_namespace) == []


async def test_attribute_of_another_type_is_refused(other_namespace: Client) -> None:
    await other_namespace.operator_service.add_search_attributes(
        AddSearchAttributesRequest(
            namespace=other_namespace.namespace,
            search_attributes={"GpuStage": IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD_LIST},
        )
    )
    with pytest.raises(Conflict, match="GpuStage is KeywordList and must be Keyword"):
        await ensure_search_attributes(other_namespace)


@pytest.mark.parametrize("refused", ["list_search_attributes", "add_search_attributes"])
async def test_without_permission_the_command_is_told(
    other_namespace: Client, monkeypatch: pytest.MonkeyPatch, refused: str
) -> None:
    # A dev server allows everything, so its answer is replaced.
    async def denied(*_: object) -> None:
        raise RPCError("Request unauthorized.", RPCStatusCode.PERMISSION_DENIED, b"")

    monkeypatch.setattr(other_namespace.operator_service, refused, denied)
    with pytest.raises(NeedsHuman) as caught:
        await ensure_search_attributes(other_namespace)
    assert str(caught.value).endswith(create_command(other_namespace.namespace, list(search_attributes.ALL)))


def test_command_creates_what_is_missing() -> None:
    assert create_command("gpu", [search_attributes.GPU_HOST, search_attributes.GPU_MODE]) == (
        "temporal operator search-attribute create --namespace gpu "
        "--name GpuHost --type Keyword --name GpuMode --type Keyword"
    )
