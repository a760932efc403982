"""The typed search attributes by which runs are found in the Temporal UI and by the CLI."""

from typing import Any

from temporalio.common import SearchAttributeKey, SearchAttributePair, TypedSearchAttributes

from contracts.host import HostRef

__all__ = [
    "ALL",
    "GPU_APPROVAL",
    "GPU_CLUSTER",
    "GPU_HOST",
    "GPU_MODE",
    "GPU_STAGE",
    "GPU_VCENTER",
    "GPU_VM",
    "cut",
    "of_host",
    "of_vm",
]

GPU_VCENTER = SearchAttributeKey.for_keyword("GpuVCenter")
GPU_CLUSTER = SearchAttributeKey.for_keyword("GpuCluster")
GPU_HOST = SearchAttributeKey.for_keyword("GpuHost")
GPU_VM = SearchAttributeKey.for_keyword("GpuVm")
GPU_MODE = SearchAttributeKey.for_keyword("GpuMode")
GPU_STAGE = SearchAttributeKey.for_keyword("GpuStage")
GPU_APPROVAL = SearchAttributeKey.for_keyword("GpuApproval")

ALL: tuple[SearchAttributeKey[Any], ...] = (
    GPU_VCENTER,
    GPU_CLUSTER,
    GPU_HOST,
    GPU_VM,
    GPU_MODE,
    GPU_STAGE,
    GPU_APPROVAL,
)


def cut(value: str) -> str:
    """A value short enough to index; Temporal ends a run whose attribute is over its limit (2 KB)."""
    return value[:255]


def of_host(host: HostRef, cluster_name: str) -> TypedSearchAttributes:
    """What a run about a host is found by from its start."""
    return TypedSearchAttributes(
        [
            SearchAttributePair(GPU_VCENTER, cut(host.vcenter)),
            SearchAttributePair(GPU_HOST, cut(host.name)),
            SearchAttributePair(GPU_CLUSTER, cut(cluster_name)),
        ]
    )


def of_vm(vcenter: str, name: str, cluster_name: str = "") -> TypedSearchAttributes:
    """What a run about a VM is found by from its start."""
    pairs = [SearchAttributePair(GPU_VCENTER, cut(vcenter)), SearchAttributePair(GPU_VM, cut(name))]
    if cluster_name:
        pairs.append(SearchAttributePair(GPU_CLUSTER, cut(cluster_name)))
    return TypedSearchAttributes(pairs)
