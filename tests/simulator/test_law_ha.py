from __future__ import annotations

from pyVmomi import vim

from simulator.laws import hosts, power
from simulator.world import Host, VirtualMachine, World
from tests.simulator.law_world import dynamic_gpu, events, give, gpu_ids, make_passthrough, static_gpu, until, world_of


def first(world: World) -> Host:
    return next(iter(world.hosts.values()))


async def gpu_vm(world: World, host: Host, *, static: bool) -> VirtualMachine:
    vm = next(vm for vm in host.vms.values() if not vm.gpus)
    give(vm, static_gpu(gpu_ids(host)[0]) if static else dynamic_gpu("Training"))
    await power.power_on(world, vm)
    assert vm.host is host
    return vm


async def failed(world: World, host: Host) -> None:
    hosts.fail(world, host)
    await over(host)


async def over(host: Host) -> None:
    """What befell the host has been noticed, and HA has done what it could."""
    assert host.background is not None
    await host.background
    if host.compute.failover is not None:
        await host.compute.failover


async def test_plain_vms_restart_on_other_hosts() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        vm = next(iter(host.vms.values()))
        await failed(world, host)
        assert (vm.power_state, vm.host is host) == ("poweredOn", False)
        assert events(world) == ["HostConnectionLostEvent", "DasHostFailedEvent", "VmRestartedOnAlternateHostEvent"]


async def test_a_dynamic_vm_restarts_where_a_matching_device_is_free() -> None:
    async with world_of(vms=3) as world:
        host, spare, other = world.hosts.values()
        make_passthrough(host, label="Training")
        make_passthrough(spare, label="Inference")
        make_passthrough(other, gpu_ids(other)[1], label="Training")
        vm = await gpu_vm(world, host, static=False)
        await failed(world, host)
        assert (vm.host, vm.gpus[0].assigned_id) == (other, gpu_ids(other)[1])
        assert "VmRestartedOnAlternateHostEvent" in events(world)


async def test_a_dynamic_vm_stays_off_without_a_free_device_and_ha_says_so() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        make_passthrough(host, label="Training")
        vm = await gpu_vm(world, host, static=False)
        await failed(world, host)
        assert (vm.power_state, vm.host) == ("poweredOff", host)
        assert {"NotEnoughResourcesToStartVmEvent", "VmFailoverFailed"} <= set(events(world))


async def test_a_static_vm_stays_off_without_a_word() -> None:
    async with world_of(vms=3) as world:
        host, other, _ = world.hosts.values()
        make_passthrough(host)
        make_passthrough(other)
        vm = await gpu_vm(world, host, static=True)
        await failed(world, host)
        assert (vm.power_state, vm.host) == ("poweredOff", host)
        assert not {"VmRestartedOnAlternateHostEvent", "VmFailoverFailed"} & set(events(world))


async def test_a_returning_host_shows_what_it_lost() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        make_passthrough(host)
        vm = await gpu_vm(world, host, static=True)
        await failed(world, host)
        shown = world.managed(vm)
        assert (shown.read("runtime.powerState"), shown.read("runtime.connectionState")) == (
            "poweredOn",
            "disconnected",
        )
        hosts.restore(world, host)
        await until(lambda: host.connection_state == "connected")
        assert (shown.read("runtime.powerState"), shown.read("runtime.connectionState")) == ("poweredOff", "connected")


async def test_no_ha_for_a_host_in_maintenance_or_a_cluster_without_it() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        host.in_maintenance = True
        await failed(world, host)
        assert events(world) == ["HostConnectionLostEvent"]
    async with world_of(vms=3) as world:
        first(world).compute.ha_enabled = False
        await failed(world, first(world))
        assert events(world) == ["HostConnectionLostEvent"]


async def test_isolation_leaves_or_moves_vms_as_the_response_says() -> None:
    for response, kind in (("powerOff", "VmPowerOffOnIsolationEvent"), ("shutdown", "VmShutdownOnIsolationEvent")):
        async with world_of(vms=3) as world:
            host = first(world)
            host.compute.isolation_response = response
            vm = next(iter(host.vms.values()))
            hosts.isolate(world, host)
            await over(host)
            assert (vm.power_state, vm.host is host) == ("poweredOn", False)
            assert {"DasHostIsolatedEvent", kind} <= set(events(world))
    async with world_of(vms=3) as world:
        host = first(world)
        vm = next(iter(host.vms.values()))
        hosts.isolate(world, host)
        await over(host)
        assert (vm.power_state, vm.host) == ("poweredOn", host)


async def test_a_failure_names_the_failed_host_and_the_restart_its_source() -> None:
    async with world_of(vms=3) as world:
        host = first(world)
        posted: list[object] = []
        post = world.registry.events.post
        world.registry.events.post = lambda event, hidden=False: posted.append(event) or post(event, hidden)  # type: ignore[method-assign,func-returns-value]
        await failed(world, host)
        das = next(event for event in posted if isinstance(event, vim.event.DasHostFailedEvent))
        restart = next(event for event in posted if isinstance(event, vim.event.VmRestartedOnAlternateHostEvent))
        assert das.failedHost.name == restart.sourceHost.name == host.name
        assert restart.host.name != host.name
