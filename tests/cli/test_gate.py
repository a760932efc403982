"""What operators see of a cluster's gate."""

import asyncio
import json
import uuid
from datetime import UTC, datetime
from typing import Any

import yaml
from temporalio.client import Client

from contracts import ids, names
from contracts.gate import GateInput, LeaseRequest
from tests.cli.conftest import Installation
from vsphere.inventory import host_index


async def test_gate_status_shows_who_holds_a_lease_who_waits_and_why(
    installation: Installation, temporal_client: Client
) -> None:
    settings = yaml.safe_load(installation.configuration.read_text())
    vcenter = settings["vcenters"][0]["name"]
    hosts = [installation.add_host(cluster="gpu-04"), installation.add_host(cluster="gpu-04")]
    si = installation.simulator.connect()
    try:
        index = host_index(si, vcenter)
    finally:
        installation.simulator.disconnect(si)
    found = [index.find(host) for host in hosts]
    cluster = found[0].cluster_moid
    gate = ids.cluster_gate(vcenter, cluster)
    # The watch of the vCenter stands in for holders: it lives, and it ignores grants.
    watch = await temporal_client.get_workflow_handle(ids.watch(vcenter)).describe()
    for host in found:
        await temporal_client.start_workflow(
            names.CLUSTER_GATE,
            GateInput(vcenter=vcenter, cluster_moid=cluster, cluster_name=host.cluster_name),
            id=gate,
            task_queue=settings["temporal"]["task_queue"],
            start_signal=names.LEASE_REQUESTED,
            start_signal_args=[
                LeaseRequest(
                    token=uuid.uuid4().hex,
                    workflow_id=watch.id,
                    first_run_id=watch.raw_info.first_run_id,
                    host=host.ref,
                    cluster_moid=cluster,
                    cluster_name=host.cluster_name,
                    requested_at=datetime.now(UTC),
                )
            ],
        )

    def told() -> Any:
        done = installation.gpuwright("gate", "status", "--cluster", "gpu-04", "--json")
        # The gate has just been started: the service may not answer for it yet.
        gates = json.loads(done.stdout) if done.returncode == 0 else []
        return gates[0] if gates and gates[0]["leases"] and gates[0]["waiting"] else None

    try:
        status = await asyncio.to_thread(installation.until, "gate with a lease", told, 100)
        assert (status["cluster_name"], status["hosts_down"]) == ("gpu-04", 1)
        assert status["leases"][0]["request"]["host"]["name"] == hosts[0]
        assert [asked["host"]["name"] for asked in status["queue"]] == [hosts[1]]
        assert f"{hosts[0]} is leased to {watch.id}" in status["waiting"]
        shown = await asyncio.to_thread(installation.gpuwright, "gate", "status")
        assert shown.returncode == 0, shown.stderr
        assert f"{vcenter}/gpu-04: 1 of 1 leased" in shown.stdout
        assert f"{hosts[0]}\tleased" in shown.stdout
        assert f"{hosts[1]}\twaits" in shown.stdout
        wrong = await asyncio.to_thread(installation.gpuwright, "gate", "status", "--cluster", "gpu-9")
        assert wrong.returncode == 1
        assert "gpu-04" in wrong.stderr
    finally:
        await temporal_client.get_workflow_handle(gate).terminate()


async def test_a_gate_that_nobody_serves_is_named_and_keeps_back_no_other(
    installation: Installation, temporal_client: Client
) -> None:
    served = yaml.safe_load(installation.configuration.read_text())["temporal"]["task_queue"]
    gates = {}
    for queue in (served, f"nobody-{uuid.uuid4().hex[:8]}"):
        vcenter = f"vc-{uuid.uuid4().hex[:8]}"
        gate = GateInput(vcenter=vcenter, cluster_moid="domain-c1", cluster_name=vcenter)
        gates[queue] = await temporal_client.start_workflow(
            names.CLUSTER_GATE, gate, id=ids.cluster_gate(vcenter, "domain-c1"), task_queue=queue
        )
    await gates[served].query(names.QUERY_STATUS)
    silent = next(handle for queue, handle in gates.items() if queue != served)

    def told() -> Any:
        # Visibility lags behind the start.
        done = installation.gpuwright("gate", "status", "--json")
        return done if silent.id in done.stderr and gates[served].id.split("/")[1] in done.stdout else None

    try:
        done = await asyncio.to_thread(installation.until, "both gates", told, 100)
        assert done.returncode == 0, done.stderr
        assert f"{silent.id} does not answer" in done.stderr
        assert silent.id.split("/")[1] not in done.stdout
    finally:
        for handle in gates.values():
            await handle.terminate()
