"""One approval for many hosts: what a host's run is given, and what its activities verify.

A person signs the hash of a cluster's plan. The hash is made of each host's key and the hash of its plan, so whoever
holds the list can prove that one host's plan is part of what was signed, without the other plans.
"""

import hashlib

from contracts.base import Message

__all__ = ["ClusterGrant", "HostHash", "cluster_plan_hash"]

HostHash = tuple[str, str]
"""A host's key and the hash of its plan (`contracts.plan.plan_hash`)."""


class ClusterGrant(Message):
    """The approval of a cluster's plan, as its hosts' runs carry it. Nothing here is trusted: activities verify it."""

    token: str
    """The signed decision about the run of `PrepareGpuCluster` that asked."""
    plan_hash: str
    """The hash of the cluster's plan."""
    hosts: tuple[HostHash, ...]
    """All hosts of the plan, which is what `plan_hash` is made of."""

    def hash_of(self, host_key: str) -> str | None:
        """The hash of a host's approved plan; None for a host that is not part of it."""
        return dict(self.hosts).get(host_key)


def cluster_plan_hash(vcenter: str, cluster_moid: str, hosts: tuple[HostHash, ...]) -> str:
    """The hash that a cluster's approval is bound to: SHA-256 over the cluster and its hosts by key, 32 hex digits."""
    digest = hashlib.sha256(f"cluster\0{vcenter}\0{cluster_moid}".encode())
    for key, plan_hash in sorted(hosts):
        digest.update(f"\0{key}\0{plan_hash}".encode())
    return digest.hexdigest()[:32]
