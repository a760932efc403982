"""HA restarts what ran on failed hosts: in which order, where, how often it tries, and what it says when it cannot."""

from __future__ import annotations

import asyncio
import time

from pyVmomi import vim

from simulator.laws import hosts, power
from simulator.laws.ha import ATTEMPTS, RESTART_SECONDS
from simulator.laws.power import answer
from tests.simulator.ha_world import cluster_of, failed, gpu_vm, ha_over, prepared, recorded, said
from tests.simulator.law_world import dynamic_gpu, events, make_passthrough, until, world_of

NO_ROOM = "NotEnoughResourcesToStartVmEvent"


async def test_the_most_urgent_vm_of_all_failed_hosts_gets_the_only_device() -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, two, three = prepared(world)
        make_passthrough(three, label="Other")
        make_passthrough(three, next(iter(three.gpus)), label="Training")
        vms = [await gpu_vm(world, host, f"vm-{host.name}-{number}") for number in range(2) for host in (one, two)]
        for vm, priority in zip(vms, ("low", "lowest", "medium", "high"), strict=True):
            world.actions["set_vm_ha"](vm.name, restart_priority=priority)
        await failed(world, one, two)
        assert [vm.power_state for vm in vms] == ["poweredOff", "poweredOff", "poweredOff", "poweredOn"]
        assert vms[3].host is three


async def test_equal_priorities_are_served_by_moid_and_the_order_is_seen_in_events() -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, two, _ = prepared(world)
        vms = [await gpu_vm(world, host, f"vm-{index}", dynamic_gpu()) for index, host in enumerate((two, one, two))]
        plain = world.vms[await world.actions["add_vm"](one.name, "plain")]
        for vm, priority in zip((*vms, plain), ("lowest", "medium", "medium", "highest"), strict=True):
            world.actions["set_vm_ha"](vm.name, restart_priority=priority)
        found = recorded(world)
        await failed(world, one, two)
        restarted = [event.vm.name for event in said(found, "VmRestartedOnAlternateHostEvent")]
        assert restarted == ["plain", "vm-1", "vm-2"]
        assert [event.vm.name for event in said(found, NO_ROOM)] == ["vm-0"] * ATTEMPTS


async def test_what_ha_does_not_protect_stays_off_without_a_word() -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, *_ = prepared(world)
        disabled, unknown = [await gpu_vm(world, one, name) for name in ("disabled", "unknown")]
        world.actions["set_vm_ha"]("disabled", restart_priority="disabled")
        world.actions["set_vm_ha"]("unknown", protected=False)
        found = recorded(world)
        await failed(world, one)
        assert (disabled.power_state, unknown.power_state) == ("poweredOff", "poweredOff")
        assert not [event for event in found if event.vm is not None]


async def test_a_static_vm_stays_off_also_when_its_host_is_back() -> None:
    async with world_of(hosts=3, vms=0) as world:
        one, *_ = prepared(world)
        vm = await gpu_vm(world, one, "pinned", static=True)
        found = recorded(world)
        await failed(world, one)
        hosts.restore(world, one)
        await until(lambda: one.up)
        assert (vm.power_state, vm.host) == ("poweredOff", one)
        assert not [event for event in found if event.vm is not None]


async def test_the_host_with_most_free_memory_is_taken_and_rules_and_states_bar_hosts() -> None:
    async with world_of(hosts=6, vms=0) as world:
        lost, full, barred, maintained, emptiest, asleep = prepared(world)
        vm = await gpu_vm(world, lost, "train")
        world.vms[await world.actions["add_vm"](full.name, "big")].memory_mib = 512 * 1024
        world.actions["add_vm_host_rule"]("gpu-01", "not-there", ["train"], [barred.name], affine=False)
        hosts.set_maintenance(world, maintained, True)
        await world.actions["enter_standby"](asleep.name)
        await failed(world, lost)
        assert vm.host is emptiest

        # With that one gone too, the full host is all that is left.
        await failed(world, emptiest)
        assert (vm.power_state, vm.host) == ("poweredOn", full)


async def test_without_room_ha_says_why_and_tries_five_times() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        make_passthrough(two, label="Inference")
        vm = await gpu_vm(world, one, "train")
        found = recorded(world)
        await failed(world, one)
        told, gave_up = said(found, NO_ROOM, vm), said(found, "VmFailoverFailed", vm)
        assert (len(told), len(gave_up)) == (ATTEMPTS, ATTEMPTS) == (5, 5)
        assert "label" in told[0].reason
        assert isinstance(gave_up[0].reason, vim.fault.InsufficientResourcesFault)
        assert (vm.power_state, vm.host) == ("poweredOff", one)


async def test_a_device_or_a_host_that_comes_back_meanwhile_is_used() -> None:
    async with world_of(time_scale=400, hosts=2, vms=0) as world:
        one, two = prepared(world)
        holders = [await gpu_vm(world, two, f"holder-{number}") for number in range(2)]
        vm = await gpu_vm(world, one, "train")
        found = recorded(world)
        hosts.fail(world, one)
        await until(lambda: said(found, NO_ROOM, vm))
        await power.power_off(world, holders[0])
        await ha_over(one)
        assert (vm.power_state, vm.host) == ("poweredOn", two)
        assert said(found, "VmRestartedOnAlternateHostEvent", vm)
    async with world_of(time_scale=400, hosts=2, vms=0) as world:
        one, two = prepared(world)
        make_passthrough(two, label="Inference")
        vm = await gpu_vm(world, one, "train")
        found = recorded(world)
        hosts.slow_reboot(world, one, 1)
        hosts.fail(world, one)
        await until(lambda: said(found, NO_ROOM, vm))
        hosts.restore(world, one)
        assert one.compute.failover is not None
        await one.compute.failover
        assert (vm.power_state, vm.host) == ("poweredOn", one)


async def test_ha_leaves_alone_what_somebody_took_in_hand() -> None:
    async with world_of(time_scale=400, hosts=2, vms=0) as world:
        one, two = prepared(world)
        make_passthrough(two, label="Inference")
        gone, off = [await gpu_vm(world, one, name) for name in ("gone", "off")]
        lost = world.vms[await world.actions["add_vm"](one.name, "lost")]
        lost.memory_mib = 4096 * 1024
        found = recorded(world)
        hosts.fail(world, one)
        await until(lambda: len(said(found, NO_ROOM)) >= 3)
        world.managed(gone).unregister(None)
        world.actions["set_vm_ha"]("off", restart_priority="disabled")
        world.actions["set_vm_connection"]("lost", "inaccessible")
        lost.memory_mib = 1024
        make_passthrough(two, label="Training")
        await ha_over(one)
        assert (off.power_state, lost.power_state, gone.moid in world.vms) == ("poweredOff", "poweredOff", False)
        assert not said(found, "VmRestartedOnAlternateHostEvent")


async def test_manual_drs_recommends_for_gpu_vms_and_whoever_applies_it_gets_the_vm_back() -> None:
    async with world_of(hosts=3, vms=3) as world:
        one, two, three = prepared(world)
        plain = next(iter(one.vms.values()))
        by_cluster, automatic = [await gpu_vm(world, one, name) for name in ("by-cluster", "automatic")]
        world.actions["set_drs"]("gpu-01", "manual")
        world.actions["set_drs_override"]("automatic", "fullyAutomated")
        found = recorded(world)
        await failed(world, one)
        assert [vm.power_state for vm in (plain, by_cluster, automatic)] == ["poweredOn", "poweredOff", "poweredOn"]
        assert not said(found, "VmFailoverFailed")
        (waiting,) = world.managed(cluster_of(world)).read("recommendation")
        assert (waiting.reason, waiting.action[0].target._moId) == ("powerOnVm", by_cluster.moid)
        world.managed(cluster_of(world)).apply_recommendation(None, waiting.key)
        await until(lambda: by_cluster.power_state == "poweredOn")
        assert by_cluster.host in (two, three)
        assert not world.managed(cluster_of(world)).read("recommendation")


async def test_a_recommendation_is_gone_once_its_vm_runs_or_leaves() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, _ = prepared(world)
        vms = [await gpu_vm(world, one, name) for name in ("started", "removed")]
        world.actions["set_drs"]("gpu-01", "manual")
        await failed(world, one)
        assert {found.vm.name for found in cluster_of(world).recommendations.values()} == {"started", "removed"}
        hosts.restore(world, one)
        await until(lambda: one.up)
        await power.power_on(world, vms[0], one)
        world.managed(vms[1]).unregister(None)
        assert not world.managed(cluster_of(world)).read("recommendation")


async def test_manual_drs_has_nothing_to_recommend_without_a_place() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        make_passthrough(two, label="Inference")
        vm = await gpu_vm(world, one, "train")
        world.actions["set_drs_override"](vm.name, "manual")
        found = recorded(world)
        await failed(world, one)
        assert not cluster_of(world).recommendations
        assert len(said(found, "VmFailoverFailed", vm)) == ATTEMPTS


async def test_a_configuration_that_cannot_start_is_told_once_with_its_reason() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        unreserved, small = [await gpu_vm(world, one, name) for name in ("unreserved", "small")]
        unreserved.memory_reserved_all = False
        small.extra_config["pciPassthru.64bitMMIOSizeGB"] = "1"
        world.actions["set_names_small_mmio"](two.name)
        found = recorded(world)
        await failed(world, one)
        assert {vm.power_state for vm in (unreserved, small)} == {"poweredOff"}
        (reservation,), (mmio,) = (said(found, "VmFailoverFailed", vm) for vm in (unreserved, small))
        assert isinstance(reservation.reason, vim.fault.GenericVmConfigFault)
        assert "memory reservation" in reservation.reason.reason
        assert "DevicePowerOn" in mmio.reason.reason
        assert not said(found, NO_ROOM)


async def test_elsewhere_too_little_mmio_means_a_vm_without_its_guest() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        vm = await gpu_vm(world, one, "small")
        vm.extra_config["pciPassthru.64bitMMIOSizeGB"] = "1"
        found = recorded(world)
        await failed(world, one)
        await world.sleep(120)
        assert (vm.power_state, vm.host, vm.booted) == ("poweredOn", two, False)
        assert said(found, "VmRestartedOnAlternateHostEvent", vm)


async def test_no_monitoring_no_restart() -> None:
    async with world_of(hosts=3, vms=3) as world:
        world.actions["set_ha"]("gpu-01", host_monitoring=False)
        one, two, _ = world.hosts.values()
        await failed(world, one)
        hosts.isolate(world, two)
        assert two.background is not None
        await two.background
        assert events(world) == ["HostConnectionLostEvent"] * 2


async def test_newer_releases_send_eventex_without_the_source() -> None:
    async with world_of(hosts=3, vms=3) as world:
        world.actions["set_ha"]("gpu-01", new_events=True)
        one = next(iter(world.hosts.values()))
        (vm,) = one.vms.values()
        found = recorded(world)
        await failed(world, one)
        assert events(world) == ["HostConnectionLostEvent", "EventEx", "EventEx"]
        (down,) = said(found, "com.vmware.vc.ha.DasHostFailedEvent")
        (back,) = said(found, "com.vmware.vc.HA.VmRestartedByHAEvent", vm)
        assert (down.host.name, back.host.name) == (one.name, vm.host.name)
        logged = [event.names for event in world.registry.events.forwards(1)]
        assert any("com.vmware.vc.ha.DasHostFailedEvent" in names for names in logged)


async def test_a_vm_that_asks_something_waits_after_its_restart() -> None:
    async with world_of(hosts=3, vms=3) as world:
        one = next(iter(world.hosts.values()))
        (vm,) = one.vms.values()
        world.actions["set_question"](vm.name, "Was it moved or copied?", ["Cancel", "I moved it"])
        await failed(world, one)
        await world.sleep(120)
        assert (vm.power_state, vm.booted, vm.question is not None) == ("poweredOn", False, True)
        assert "VmMessageEvent" in events(world)
        assert vm.question is not None
        answer(world, vm, vm.question.key, "1")
        await until(lambda: vm.booted)


async def test_who_was_restarted_elsewhere_stays_there_and_the_others_are_off_on_the_host_that_is_back() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, two = prepared(world)
        moved, left = await gpu_vm(world, one, "moved"), await gpu_vm(world, one, "left", dynamic_gpu("Training"))
        world.actions["set_vm_ha"]("left", restart_priority="disabled")
        await failed(world, one)
        hosts.restore(world, one)
        await until(lambda: one.up)
        assert (moved.host, moved.power_state) == (two, "poweredOn")
        assert (left.host, left.power_state, left.shown_power_state) == (one, "poweredOff", "poweredOff")


async def test_a_host_that_is_back_before_anybody_noticed_has_lost_its_vms_all_the_same() -> None:
    async with world_of(hosts=3, vms=3) as world:
        one = next(iter(world.hosts.values()))
        (vm,) = one.vms.values()
        hosts.fail(world, one)
        await asyncio.sleep(0)
        hosts.restore(world, one)
        await until(lambda: one.up and vm.power_state == "poweredOn")
        assert vm.host is not one
        assert "DasHostFailedEvent" in events(world)


async def test_vcenter_goes_on_showing_what_a_lost_host_held() -> None:
    async with world_of(hosts=2, vms=0) as world:
        one, _ = prepared(world)
        vm = await gpu_vm(world, one, "pinned", static=True)
        held = vm.gpus[0].assigned_id
        await failed(world, one)
        (binding,) = world.managed(one).read("config.assignableHardwareBinding")
        assert (binding.vm._moId, binding.pciId) == (vm.moid, held)
        hosts.restore(world, one)
        await until(lambda: one.up)
        assert not world.managed(one).read("config.assignableHardwareBinding")


async def test_five_hosts_with_400_vms_are_dealt_with_while_others_are_served() -> None:
    async with world_of(hosts=32, gpus=16, vms=0) as world:
        found = prepared(world)
        for host in found[:5]:
            for number in range(80):
                gpus = (dynamic_gpu("Training"),) if number < 16 else ()
                moid = await world.actions["add_vm"](host.name, f"{host.name}-{number}", on=False)
                vm = world.vms[moid]
                vm.gpus, vm.memory_reserved_all = list(gpus), bool(gpus)
                power.start_on(world, vm, host, boot_guest=False)
        slices: list[float] = []

        async def watch() -> None:
            last = time.thread_time()
            while True:
                await asyncio.sleep(0.001)
                now = time.thread_time()
                slices.append(now - last)
                last = now

        watching = asyncio.ensure_future(watch())
        await failed(world, *found[:5])
        watching.cancel()
        assert all(vm.power_state == "poweredOn" and vm.host not in found[:5] for vm in world.vms.values())
        assert sum(slices) < 3, "seconds of CPU for all the restarts"
        assert max(slices) < 1, "seconds of CPU in which nobody else was served"


async def test_a_host_that_is_lost_and_not_yet_noticed_belongs_to_the_same_batch() -> None:
    async with world_of(hosts=3) as world:
        first, second, third = prepared(world)
        low = await gpu_vm(world, first, "low", dynamic_gpu("Training"))
        world.actions["set_vm_ha"]("low", restart_priority="low")
        high = await gpu_vm(world, second, "high", dynamic_gpu("Training"))
        await gpu_vm(world, third, "there", dynamic_gpu("Training"))
        second.responding = False
        hosts.fail(world, first)
        await until(lambda: first.connection_state == "notResponding")
        await world.sleep(10 * RESTART_SECONDS)
        assert "VmRestartedOnAlternateHostEvent" not in events(world)
        hosts.fail(world, second)
        await ha_over(first, second)
        assert (high.host, high.power_state) == (third, "poweredOn")
        assert (low.host, low.power_state) == (first, "poweredOff")
