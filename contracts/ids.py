"""Workflow IDs as functions with an inverse.

An ID names the subject, so that one subject has one live run by construction. `host` is the key that
`HostRef.key` gives (hardware UUID), because names and moids change when a host is renamed or re-added.
"""

import re
from typing import NamedTuple
from urllib.parse import quote, unquote

__all__ = [
    "SubjectId",
    "cluster_gate",
    "cluster_snapshots",
    "forward",
    "ha_recovery_audit",
    "notice",
    "parse",
    "prepare_gpu_cluster",
    "prepare_gpu_host",
    "provision_gpu_vm",
    "provision_gpu_vms",
    "reconcile_fleet",
    "retire_gpu_vm",
    "throttle",
    "watch",
]

_KINDS = {
    "cluster-gate": 2,
    "cluster-snapshots": 2,
    "forward": 2,
    "ha-recovery-audit": 2,
    "notice": 2,
    "prepare-gpu-cluster": 2,
    "prepare-gpu-host": 2,
    "provision-gpu-vm": 2,
    "provision-gpu-vms": 2,
    "reconcile-fleet": 1,
    "retire-gpu-vm": 2,
    "throttle": 2,
    "watch": 1,
}
_SCHEDULED = re.compile(r"-\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$")
"""What a schedule appends to its runs' IDs. A subject has no colon: it is quoted."""


class SubjectId(NamedTuple):
    """A parsed workflow ID: its kind (`prepare-gpu-host`), the vCenter's configured name and the subject's key."""

    kind: str
    vcenter: str
    subject: str = ""


def prepare_gpu_host(vcenter: str, host_key: str) -> str:
    """The ID of the one live preparation of a host."""
    return _join("prepare-gpu-host", vcenter, host_key)


def prepare_gpu_cluster(vcenter: str, cluster_moid: str) -> str:
    """The ID of the one live preparation of a cluster."""
    return _join("prepare-gpu-cluster", vcenter, cluster_moid)


def cluster_gate(vcenter: str, cluster_moid: str) -> str:
    """The ID of the one gate of a cluster. By moid: a cluster has no other key, and its name changes."""
    return _join("cluster-gate", vcenter, cluster_moid)


def provision_gpu_vm(vcenter: str, vm_name: str) -> str:
    """The ID of the one live run that makes a VM of this name, or gives it other GPUs: the two exclude each other."""
    return _join("provision-gpu-vm", vcenter, vm_name)


def provision_gpu_vms(vcenter: str, base_name: str) -> str:
    """The ID of the one live run that makes several VMs whose names begin so."""
    return _join("provision-gpu-vms", vcenter, base_name)


def retire_gpu_vm(vcenter: str, instance_uuid: str) -> str:
    """The ID of the one live retirement of a VM. By instance UUID: another VM may have the name when it is gone."""
    return _join("retire-gpu-vm", vcenter, instance_uuid)


def ha_recovery_audit(vcenter: str, subject: str) -> str:
    """The ID of the one live audit of a cluster (by moid), or of a host that is in none (by key)."""
    return _join("ha-recovery-audit", vcenter, subject)


def cluster_snapshots(vcenter: str, subject: str) -> str:
    """The ID of the one memory of who ran on which GPUs of a cluster (by moid), or of a host that is in none."""
    return _join("cluster-snapshots", vcenter, subject)


def notice(vcenter: str, notice_id: str) -> str:
    """The ID of the one delivery of a notice."""
    return _join("notice", vcenter, notice_id)


def throttle(vcenter: str, rule: str) -> str:
    """The ID of the one throttle of a rule for the events of a vCenter."""
    return _join("throttle", vcenter, rule)


def watch(vcenter: str) -> str:
    """The ID of the one watch of a vCenter."""
    return _join("watch", vcenter)


def forward(vcenter: str, webhook: str) -> str:
    """The ID of the one run that takes a vCenter's events to a webhook, by its configured name."""
    return _join("forward", vcenter, webhook)


def reconcile_fleet(vcenter: str) -> str:
    """The ID of the schedule that looks for drift in a vCenter; its runs' IDs begin with it."""
    return _join("reconcile-fleet", vcenter)


def parse(workflow_id: str) -> SubjectId:
    """The inverse of the functions above; raises `ValueError` for an ID that none of them made."""
    kind, *parts = _SCHEDULED.sub("", workflow_id).split("/")
    if _KINDS.get(kind) != len(parts) or not all(parts):
        raise ValueError(f"{workflow_id!r} is not a gpuwright workflow ID")
    return SubjectId(kind, *map(unquote, parts))


def _join(kind: str, *parts: str) -> str:
    if not all(parts):
        raise ValueError(f"a {kind} ID needs no empty part, got {parts!r}")
    return "/".join([kind, *(quote(part, safe="") for part in parts)])
