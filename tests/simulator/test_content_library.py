"""Content libraries over REST: found by name, deployed to a place."""

from __future__ import annotations

import pytest

from simulator.world import VirtualMachine
from tests.simulator.sites import Running, running


async def library(vcenter: Running, kind: str) -> tuple[str, VirtualMachine]:
    """The id of an item, and its source."""
    await vcenter.log_in()
    host = next(iter(vcenter.world.hosts.values()))
    moid = await vcenter.world.actions["add_template"]("ubuntu", host.name)
    item = vcenter.world.actions["add_library_item"]("images", "ubuntu-22.04", kind, "ubuntu")
    return item, vcenter.world.vms[moid]


async def test_items_are_found_and_described() -> None:
    async with running() as vcenter:
        item, source = await library(vcenter, "vm-template")
        _, (identity,) = await vcenter.call("GET", "/api/content/library")
        assert (await vcenter.call("GET", f"/api/content/library/{identity}"))[1]["name"] == "images"
        assert (await vcenter.call("GET", f"/api/content/library/item?library_id={identity}"))[1] == [item]
        assert (await vcenter.call("GET", "/api/content/library/item"))[0] == 400
        told = (await vcenter.call("GET", f"/api/content/library/item/{item}"))[1]
        assert (told["name"], told["type"], told["library_id"]) == ("ubuntu-22.04", "vm-template", identity)
        for wanted, found in (({"name": "ubuntu-22.04"}, [item]), ({"name": "none"}, []), ({"type": "ovf"}, [])):
            assert (await vcenter.call("POST", "/api/content/library/item?action=find", wanted))[1] == found
        assert (await vcenter.call("POST", "/api/content/library?action=find", {"name": "images"}))[1] == [identity]
        assert (await vcenter.call("GET", "/api/content/library/item/none"))[0] == 404
        shown = (await vcenter.call("GET", f"/api/vcenter/vm-template/library-items/{item}"))[1]
        assert shown["vm_template"] == source.moid
        vcenter.headers = {}
        assert (await vcenter.call("GET", "/api/content/library"))[0] == 401


async def test_a_vm_template_is_deployed_once_under_a_name() -> None:
    async with running() as vcenter:
        item, source = await library(vcenter, "vm-template")
        folder = next(found for found in vcenter.world.folders.values() if found.name == "gpu-vms")
        pool = next(found for found in vcenter.world.pools.values() if found.name == "gpu-workloads")
        store = vcenter.world.datastore_named("nfs-01")
        spec = {
            "name": "deployed",
            "placement": {"folder": folder.moid, "resource_pool": pool.moid},
            "vm_home_storage": {"datastore": store.moid},
        }
        path = f"/api/vcenter/vm-template/library-items/{item}?action=deploy"
        status, moid = await vcenter.call("POST", path, spec)
        vm = vcenter.world.vms[moid]
        assert (status, vm.name, vm.folder, vm.pool, vm.datastores) == (200, "deployed", folder, pool, [store])
        assert (vm.template, vm.power_state, vm.guest_id) == (False, "poweredOff", source.guest_id)
        status, said = await vcenter.call("POST", path, spec)
        assert (status, said["error_type"]) == (400, "ALREADY_EXISTS")
        status, said = await vcenter.call("POST", path, spec | {"name": "nowhere", "placement": {}})
        assert (status, said["error_type"]) == (400, "INVALID_ARGUMENT")
        assert (await vcenter.call("POST", path.replace("deploy", "burn"), spec))[0] == 404


async def test_an_ovf_item_is_deployed_and_tells_its_failures_in_the_answer() -> None:
    async with running() as vcenter:
        item, _ = await library(vcenter, "ovf")
        pool = next(found for found in vcenter.world.pools.values() if found.name == "gpu-workloads")
        full = vcenter.world.datastore_named("full-01")
        path = f"/api/vcenter/ovf/library-item/{item}?action=deploy"
        body = {
            "deployment_spec": {"name": "from-ovf", "accept_all_EULA": True},
            "target": {"resource_pool_id": pool.moid},
        }
        status, told = await vcenter.call("POST", path, body)
        assert (status, told["succeeded"], told["resource_id"]["type"]) == (200, True, "VirtualMachine")
        assert vcenter.world.vms[told["resource_id"]["id"]].pool is pool
        spec = {"name": "crowded", "accept_all_EULA": True, "default_datastore_id": full.moid}
        status, told = await vcenter.call("POST", path, body | {"deployment_spec": spec})
        assert (status, told["succeeded"]) == (200, False)
        assert "Insufficient disk space" in told["error"]["errors"][0]["message"]["default_message"]
        assert "crowded" not in {vm.name for vm in vcenter.world.vms.values()}
        assert (await vcenter.call("POST", path, body | {"deployment_spec": {}}))[0] == 400
        wrong = f"/api/vcenter/vm-template/library-items/{item}?action=deploy"
        assert (await vcenter.call("POST", wrong, {"name": "x"}))[1]["error_type"] == "INVALID_ARGUMENT"


async def test_a_library_takes_known_kinds_and_each_name_once() -> None:
    async with running() as vcenter:
        await library(vcenter, "ovf")
        add = vcenter.world.actions["add_library_item"]
        with pytest.raises(ValueError, match="no kind"):
            add("images", "other", "iso", "ubuntu")
        with pytest.raises(ValueError, match="already"):
            add("images", "ubuntu-22.04", "ovf", "ubuntu")
