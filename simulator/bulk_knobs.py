"""Actions on many things at once: whole clusters in one call, and whether everything has come to rest."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from typing import Any

from simulator.depots import DEPOTS
from simulator.hardware import model_of
from simulator.laws import adding, graphics, ha_settings, passthrough
from simulator.laws.guests import tools_come_up
from simulator.laws.power import boots, start_on
from simulator.laws.thieves import new_vm, static_gpu
from simulator.parts import VmGpu
from simulator.world import Cluster, Host, VirtualMachine, VmHostRule, World

__all__ = ["bulk_knobs"]

_MANAGER = "NVD-AIE-800_550.54.16-1OEM.800.1.0.20613240"
"""The vGPU Manager of hosts that share GPUs."""


def bulk_knobs(world: World) -> dict[str, Callable[..., Any]]:
    """The actions; what they are given is plain data. They raise `KeyError` for unknown names, `ValueError`."""

    def build_clusters(spec: list[dict[str, Any]]) -> None:
        """Add clusters with prepared hosts and VMs that have been running for a while, without events.

        A cluster has `name`, `hosts`, `vms` (in the order of their moids) and `rules`, and what `_new_cluster` reads;
        a host `gpus`: `model`, `mode` (`passthrough`, `vgpu`, `mig`, `default`) and `label`; a VM its `host`, `gpus`
        and what `_new_vm` reads.
        """
        for each in spec:
            cluster = _new_cluster(world, each)
            hosts = {host["name"]: _new_host(world, cluster, host) for host in each["hosts"]}
            vms = {vm["name"]: _new_vm(world, hosts[vm["host"]], vm) for vm in each["vms"]}
            for number, rule in enumerate(each["rules"]):
                cluster.vm_groups[f"rule-{number}-vms"] = [vms[name] for name in rule["vms"]]
                cluster.host_groups[f"rule-{number}-hosts"] = [hosts[name] for name in rule["hosts"]]
                cluster.vm_host_rules.append(
                    VmHostRule(f"rule-{number}", f"rule-{number}-vms", f"rule-{number}-hosts", True, rule["affine"])
                )
            for host in each["hosts"]:
                if host["maintenance"]:
                    hosts[host["name"]].in_maintenance = True
            world.changed(cluster, *hosts.values(), *vms.values())

    async def act_together(steps: list[list[tuple[str, dict[str, Any]]]]) -> None:
        """Carry out other actions: those of a step in the same moment, those of the next when these have begun."""
        for step in steps:
            for name, arguments in step:
                done = world.actions[name](**arguments)
                if inspect.isawaitable(done):
                    await done
            await asyncio.sleep(0)

    def is_quiet() -> bool:
        """Nothing goes on in the background; VMs that wait for somebody's answer wait on."""
        return world.at_work <= sum(vm.question is not None for vm in world.vms.values())

    return {action.__name__: action for action in (build_clusters, act_together, is_quiet)}


def _new_cluster(world: World, spec: dict[str, Any]) -> Cluster:
    datacenter = next(iter(world.datacenters.values()))
    cluster = adding.new_cluster(
        world,
        datacenter.host_folder,
        spec["name"],
        datastores=datacenter.datastores[:1],
        networks=datacenter.networks[:1],
    )
    cluster.ha_enabled, cluster.host_monitoring = spec["ha"], spec["host_monitoring"]
    cluster.new_events = spec["new_events"]
    cluster.drs_enabled, cluster.drs_behavior = spec["drs"] is not None, spec["drs"] or "manual"
    ha_settings.set_for_cluster(cluster, "restart_priority", spec["restart_priority"])
    ha_settings.set_for_cluster(cluster, "isolation_response", spec["isolation_response"])
    return cluster


def _new_host(world: World, cluster: Cluster, spec: dict[str, Any]) -> Host:
    host = adding.new_host(
        world, cluster, spec["name"], version=spec["version"], gpus=[gpu["model"] for gpu in spec["gpus"]]
    )
    # What nobody looks at in a thousand clusters takes most of the time that reading them takes.
    host.pci = {address: host.pci[address] for address in host.gpus}
    host.memory_bytes = spec["memory_gib"] * 2**30
    host.assignment_policy = spec["policy"]
    host.names_small_mmio = spec["names_small_mmio"]
    if any(gpu["mode"] in ("vgpu", "mig") for gpu in spec["gpus"]):
        host.vibs = [*host.vibs, DEPOTS[_MANAGER].vib]
        host.running_vibs = frozenset(host.vibs)
    for gpu in spec["gpus"]:
        function, card = host.pci[gpu["address"]], host.gpus[gpu["address"]]
        if f"{function.vendor_id:04x}:{model_of(function).device_id:04x}" != gpu["model"]:
            raise ValueError(f"{gpu['address']} of {host.name} is {function.device_name}, and no {gpu['model']}")
        function.hardware_label = gpu["label"]
        function.passthru_enabled = gpu["mode"] == "passthrough"
        card.configured_type = "sharedDirect" if gpu["mode"] in ("vgpu", "mig") else "shared"
        card.mig_pending = gpu["mode"] == "mig"
    passthrough.activate(host)
    graphics.activate(host)
    return host


def _new_vm(world: World, host: Host, spec: dict[str, Any]) -> VirtualMachine:
    """A VM that runs, or is off; what is said of its reservation, its Tools and its questions is so since it runs."""
    gpus = [_gpu(host, gpu, 13000 + index) for index, gpu in enumerate(spec["gpus"])]
    vm = new_vm(world, host, spec["name"], gpus)
    vm.memory_mib, vm.memory_reserved_all = spec["memory_gib"] * 1024, True
    mmio = {"pciPassthru.use64bitMMIO": "TRUE", "pciPassthru.64bitMMIOSizeGB": str(spec["mmio_gib"])}
    vm.extra_config = mmio if spec["mmio_gib"] else {}
    vm.restart_priority, vm.isolation_response = spec["restart_priority"], spec["isolation_response"]
    vm.drs_override, vm.devices = spec["drs_override"], []
    adding.put_vm(world, vm)
    start_on(world, vm, host, boot_guest=False)
    vm.boot_time = max(host.boot_time, world.past(days=2))
    if boots(vm):
        tools_come_up(world, vm)
    vm.protected, vm.memory_reserved_all = spec["protected"], spec["reserved"]
    vm.quirks.no_tools = spec["no_tools"]
    if spec["question"]:
        vm.quirks.question = (spec["question"], ("Cancel", "Continue"))
    return vm


def _gpu(host: Host, spec: dict[str, Any], key: int) -> VmGpu:
    if spec["kind"] == "vgpu":
        return VmGpu(key, "vgpu", profile=spec["profile"])
    if spec["kind"] == "static":
        return static_gpu(host, spec["address"], key)
    pairs = (pair.split(":") for pair in spec["allowed"])
    allowed = tuple((int(vendor, 16), int(device, 16)) for vendor, device in pairs)
    return VmGpu(key, "dynamic", allowed=allowed, label=spec["label"])
