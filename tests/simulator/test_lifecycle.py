from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from simulator.depots import DEPOTS
from simulator.laws import power
from simulator.world import Cluster
from tests.simulator.law_world import dynamic_gpu, give, make_passthrough
from tests.simulator.sites import Running, running
from tests.simulator.test_law_packages import DRIVER, GRAPHICS, NEW, OLD, url

COMPONENT, VERSION = "NVD-AIE-800", NEW[12:]


@asynccontextmanager
async def managed(*depots: str, **size: int) -> AsyncIterator[tuple[Running, Cluster, str]]:
    """An image-managed cluster, the path of its software, and depots that vCenter has imported."""
    async with running(**size) as vcenter:
        await vcenter.log_in()
        cluster = next(iter(vcenter.world.clusters.values()))
        cluster.lifecycle_managed = True
        for name in depots:
            info = await import_depot(vcenter, name)
            assert info["status"] == "SUCCEEDED"
        yield vcenter, cluster, f"/api/esx/settings/clusters/{cluster.moid}/software"


async def import_depot(vcenter: Running, name: str) -> dict[str, Any]:
    spec = {"source_type": "PULL", "location": url(name)}
    return await vcenter.task("POST", "/api/esx/settings/depots/offline?vmw-task=true", spec)


async def draft_with(vcenter: Running, path: str, **components: str) -> str:
    """A new draft with these components, and its path."""
    _, draft = await vcenter.call("POST", f"{path}/drafts")
    for name, version in components.items():
        name = name.replace("_", "-")
        status, said = await vcenter.call(
            "PUT", f"{path}/drafts/{draft}/software/components/{name}", {"version": version}
        )
        assert status == 204, said
    return f"{path}/drafts/{draft}"


async def commit(vcenter: Running, draft: str) -> dict[str, Any]:
    return await vcenter.task("POST", f"{draft}?action=commit&vmw-task=true", {"message": "vGPU"})


async def apply(vcenter: Running, path: str, **spec: Any) -> dict[str, Any]:
    return await vcenter.task("POST", f"{path}?action=apply&vmw-task=true", {"accept_eula": True} | spec)


async def test_a_component_of_the_image_is_installed_host_by_host_with_a_boot() -> None:
    async with managed(NEW) as (vcenter, cluster, path):
        draft = await draft_with(vcenter, path, NVD_AIE_800=VERSION)
        checked = await vcenter.task("POST", f"{draft}?action=validate&vmw-task=true")
        assert checked["result"]["notifications"]["errors"] == []
        assert (await commit(vcenter, draft))["status"] == "SUCCEEDED"
        _, image = await vcenter.call("GET", path)
        assert image["components"][COMPONENT]["version"] == VERSION
        assert (await vcenter.call("GET", draft))[0] == 404
        scanned = await vcenter.task("POST", f"{path}?action=scan&vmw-task=true")
        assert (scanned["result"]["status"], len(scanned["result"]["non_compliant_hosts"])) == ("NON_COMPLIANT", 2)
        boots = {host.moid: host.boot_time for host in cluster.hosts.values()}
        applied = await apply(vcenter, path)
        assert (applied["status"], set(applied["result"]["successful_hosts"])) == ("SUCCEEDED", set(boots))
        for host in cluster.hosts.values():
            assert (host.vgpu_manager_runs, host.in_maintenance, host.reboot_required) == (True, False, False)
            assert host.boot_time > boots[host.moid]
        _, compliance = await vcenter.call("GET", f"{path}/compliance")
        assert compliance["status"] == "NON_COMPLIANT"  # the last scan, not a new look
        assert (await vcenter.task("POST", f"{path}?action=scan&vmw-task=true"))["result"]["status"] == "COMPLIANT"


async def test_a_package_installed_by_hand_is_drift_and_is_removed() -> None:
    async with managed() as (vcenter, cluster, path):
        host = next(iter(cluster.hosts.values()))
        vcenter.world.actions["set_package"](host.name, NEW)
        scanned = await vcenter.task("POST", f"{path}?action=scan&vmw-task=true")
        assert scanned["result"]["hosts"][host.moid]["components"][COMPONENT]["status"] == "NON_COMPLIANT"
        applied = await apply(vcenter, path)
        assert applied["result"]["successful_hosts"] == [host.moid]
        assert len(applied["result"]["skipped_hosts"]) == 1
        assert (host.vgpu_manager_runs, DRIVER in {vib.name for vib in host.vibs}) == (False, False)


async def test_only_chosen_hosts_are_remediated_and_a_failure_stops() -> None:
    async with managed(NEW, vms=4) as (vcenter, cluster, path):
        await commit(vcenter, await draft_with(vcenter, path, NVD_AIE_800=VERSION))
        first, second = cluster.hosts.values()
        await apply(vcenter, path, hosts=[second.moid])
        assert (first.vgpu_manager_runs, second.vgpu_manager_runs) == (False, True)
        make_passthrough(first)
        vm = give(next(iter(vcenter.world.vms.values())), dynamic_gpu())
        await power.power_on(vcenter.world, vm, first)
        failed = await apply(vcenter, path)
        assert (failed["status"], failed["result"]["failed_hosts"]) == ("FAILED", [first.moid])
        assert (vm.power_state, first.in_maintenance, first.vgpu_manager_runs) == ("poweredOn", False, False)


async def test_a_draft_takes_only_what_a_depot_has_and_is_checked_as_a_whole() -> None:
    async with managed(NEW, GRAPHICS, "NVD-VGPU-702_510.108.03-1OEM.702.1.0.17867351") as (vcenter, _, path):
        draft = await draft_with(vcenter, path)
        component = f"{draft}/software/components/{COMPONENT}"
        assert (await vcenter.call("PUT", component, {"version": OLD[12:]}))[0] == 404
        for name in (NEW, GRAPHICS, "NVD-VGPU-702_510.108.03-1OEM.702.1.0.17867351"):
            vib = DEPOTS[name].vib
            spec = {"components_to_set": {vib.component: vib.version}}
            assert (await vcenter.call("PATCH", f"{draft}/software/components", spec))[0] == 204
        result = (await vcenter.task("POST", f"{draft}?action=validate&vmw-task=true"))["result"]
        said = " ".join(error["message"]["default_message"] for error in result["notifications"]["errors"])
        assert "conflict" in said
        assert "ESXi 7" in said
        assert (await commit(vcenter, draft))["error"]["error_type"] == "NOT_ALLOWED_IN_CURRENT_STATE"
        assert (await vcenter.call("GET", path))[1]["components"] == {}
        assert (await vcenter.call("DELETE", component))[0] == 204
        assert (await vcenter.call("GET", component))[0] == 404


async def test_a_user_has_one_draft_of_a_cluster() -> None:
    async with managed() as (vcenter, _, path):
        draft = await draft_with(vcenter, path)
        status, said = await vcenter.call("POST", f"{path}/drafts")
        assert (status, said["error_type"]) == (400, "ALREADY_EXISTS")
        assert (await vcenter.call("DELETE", draft))[0] == 204
        assert (await vcenter.call("POST", f"{path}/drafts"))[0] == 201


async def test_depots_are_imported_once_and_show_their_components() -> None:
    async with managed(NEW) as (vcenter, _, _path):
        assert (await import_depot(vcenter, NEW))["error"]["error_type"] == "ALREADY_EXISTS"
        assert (await import_depot(vcenter, "none"))["error"]["error_type"] == "INVALID_ARGUMENT"
        _, depots = await vcenter.call("GET", "/api/esx/settings/depots/offline")
        (depot,) = depots
        _, content = await vcenter.call("GET", f"/api/esx/settings/depots/offline/{depot}/content")
        (bundle,) = content["metadata_bundles"].values()
        assert bundle[0]["independent_components"][COMPONENT]["versions"][0]["version"] == VERSION
        _, components = await vcenter.call("GET", "/api/esx/settings/depot-content/components")
        assert [component["name"] for component in components] == [COMPONENT]


async def test_a_cluster_without_an_image_has_no_software_document() -> None:
    async with managed() as (vcenter, cluster, path):
        cluster.lifecycle_managed = False
        assert (await vcenter.call("GET", path))[0] == 404
        _, enabled = await vcenter.call("GET", path.removesuffix("/software") + "/enablement/software")
        assert enabled == {"enabled": False}


async def test_the_eula_has_to_be_accepted() -> None:
    async with managed() as (vcenter, _, path):
        status, said = await vcenter.call("POST", f"{path}?action=apply&vmw-task=true", {})
        assert (status, said["error_type"]) == (400, "INVALID_ARGUMENT")


async def test_nothing_is_told_without_a_session_and_sessions_end() -> None:
    async with managed() as (vcenter, cluster, path):
        _, hosts = await vcenter.call("GET", "/api/vcenter/host")
        assert {host["host"] for host in hosts} == set(cluster.hosts)
        _, clusters = await vcenter.call("GET", "/api/vcenter/cluster")
        assert [found["cluster"] for found in clusters] == [cluster.moid]
        assert (await vcenter.call("DELETE", "/api/session"))[0] == 204
        status, said = await vcenter.call("GET", path)
        assert (status, said["error_type"]) == (401, "UNAUTHENTICATED")
        vcenter.headers = {}
        assert (await vcenter.call("POST", "/api/session"))[0] == 401
